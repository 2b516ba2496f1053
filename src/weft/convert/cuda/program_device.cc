#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/convert/cuda/current_device_internal.h"
#include "weft/convert/cuda/kernels_internal.h"
#include "weft/convert/cuda/lower_internal.h"
#include "weft/convert/cuda/program.h"

namespace weft::convert::cuda {
namespace {

absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", cudaGetErrorName(error),
                                        ", ", cudaGetErrorString(error));
  if (error == cudaErrorMemoryAllocation) {
    return absl::ResourceExhaustedError(text);
  }
  return absl::UnavailableError(text);
}

#define WEFT_RETURN_IF_CUDA_ERROR(call, what) \
  WEFT_RETURN_IF_ERROR(ToStatus((call), (what)))

constexpr size_t kAlignment = 256;
// What the word that stops kernels has room for before the maxima begin.
constexpr size_t kStopBytes = 16;
constexpr int64_t kMostTiles = int64_t{1} << 30;

size_t RoundUp(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

absl::StatusOr<bool> HasBulkCopies(int device) {
  int major = 0;
  WEFT_RETURN_IF_CUDA_ERROR(
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
      "asking for the compute capability");
  return major >= 9;
}

class DeviceProgram final : public Program {
 public:
  DeviceProgram(int device, Lowered lowered)
      : device_(device),
        engine_(std::move(lowered.engine)),
        info_(lowered.info),
        num_values_(lowered.num_values),
        num_amax_(lowered.num_amax) {}

  ~DeviceProgram() override {
    const CurrentDevice current(device_);
    if (done_ != nullptr) cudaEventSynchronize(done_);
    for (cudaEvent_t event : {fork_, join_, done_}) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    for (cudaStream_t stream : {side_, abort_}) {
      if (stream != nullptr) cudaStreamDestroy(stream);
    }
    cudaFree(memory_);
    cudaFreeHost(host_values_);
  }

  absl::Status Prepare(const Lowered& lowered) {
    WEFT_RETURN_IF_CUDA_ERROR(
        cudaDeviceGetAttribute(&all_sms_, cudaDevAttrMultiProcessorCount,
                               device_),
        "counting multiprocessors");
    for (const auto prepare :
         {PrepareRows, PrepareWide, PrepareElements, PrepareQuantisers,
          PrepareDigests, PreparePanels}) {
      WEFT_RETURN_IF_CUDA_ERROR(prepare(), "preparing kernels");
    }
    if (!lowered.bulk_tiles.empty()) {
      WEFT_RETURN_IF_CUDA_ERROR(PrepareBulk(), "preparing bulk copies");
    }
    WEFT_RETURN_IF_ERROR(MakeStreams());
    WEFT_RETURN_IF_ERROR(Upload(lowered));
    WEFT_RETURN_IF_CUDA_ERROR(cudaMemset(memory_, 0, scratch_bytes_),
                              "clearing scratch");
    GatherLines();
    return MakeHostMemory();
  }

  absl::Status Launch(CUstream_st* stream,
                      const LaunchOptions& options) override {
    const CurrentDevice current(device_);
    WEFT_RETURN_IF_ERROR(current.status());
    WEFT_RETURN_IF_ERROR(ClearAbort());
    const Grid grid{
        stream,
        options.num_sms > 0 ? std::min(options.num_sms, all_sms_) : all_sms_,
        stop_};
    WEFT_RETURN_IF_CUDA_ERROR(ClearScratch(stream, options),
                              "clearing scratch");
    const bool forks = !engine_.empty() && (HasKernels() || stream == nullptr);
    if (forks) {
      WEFT_RETURN_IF_CUDA_ERROR(Fork(stream), "starting the copy stream");
      WEFT_RETURN_IF_ERROR(LaunchEngine(side_));
      WEFT_RETURN_IF_CUDA_ERROR(cudaEventRecord(join_, side_),
                                "ending the copy stream");
    } else {
      WEFT_RETURN_IF_ERROR(LaunchEngine(stream));
    }
    WEFT_RETURN_IF_CUDA_ERROR(LaunchKernels(grid, options), "launching");
    if (forks) {
      WEFT_RETURN_IF_CUDA_ERROR(cudaStreamWaitEvent(stream, join_, 0),
                                "waiting for the copy stream");
    }
    WEFT_RETURN_IF_CUDA_ERROR(LaunchLast(grid, options), "digesting");
    return ToStatus(cudaEventRecord(done_, stream), "recording the end");
  }

  absl::Status Abort() override {
    const CurrentDevice current(device_);
    WEFT_RETURN_IF_ERROR(current.status());
    aborted_ = true;
    if (abort_ == nullptr) WEFT_RETURN_IF_ERROR(MakeStream(abort_));
    return ToStatus(cudaMemsetAsync(stop_, 1, kStopBytes, abort_), "stopping");
  }

  absl::StatusOr<bool> Done() override {
    const CurrentDevice current(device_);
    WEFT_RETURN_IF_ERROR(current.status());
    const cudaError_t error = cudaEventQuery(done_);
    if (error == cudaErrorNotReady) return false;
    WEFT_RETURN_IF_CUDA_ERROR(error, "running a program");
    return true;
  }

  absl::Span<const DigestValue> digest_values() const override {
    return {host_values_, static_cast<size_t>(num_values_)};
  }
  const DigestValue* device_digest_values() const override { return values_; }
  const ProgramInfo& info() const override { return info_; }

 private:
  static absl::Status MakeStream(cudaStream_t& stream) {
    return ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                    "creating a stream");
  }

  static absl::Status MakeEvent(cudaEvent_t& event) {
    return ToStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
                    "creating an event");
  }

  absl::Status MakeStreams() {
    WEFT_RETURN_IF_ERROR(MakeEvent(done_));
    if (engine_.empty()) return absl::OkStatus();
    WEFT_RETURN_IF_ERROR(MakeStream(side_));
    WEFT_RETURN_IF_ERROR(MakeEvent(fork_));
    return MakeEvent(join_);
  }

  absl::Status MakeHostMemory() {
    if (num_values_ == 0) return absl::OkStatus();
    void* memory = nullptr;
    const size_t bytes = static_cast<size_t>(num_values_) * sizeof(DigestValue);
    WEFT_RETURN_IF_CUDA_ERROR(
        cudaHostAlloc(&memory, bytes, cudaHostAllocPortable),
        "allocating host memory for digests");
    host_values_ = static_cast<DigestValue*>(memory);
    std::memset(memory, 0, bytes);
    return absl::OkStatus();
  }

  // Memory of the device is one allocation: scratch that each run clears, the
  // values, and what is uploaded once.
  absl::Status Upload(const Lowered& lowered) {
    scratch_bytes_ =
        kStopBytes + static_cast<size_t>(num_amax_) * sizeof(uint32_t);
    const size_t values_at = RoundUp(scratch_bytes_);
    const size_t upload_at = RoundUp(
        values_at + static_cast<size_t>(num_values_) * sizeof(DigestValue));
    std::vector<std::byte> image;
    const size_t moves = Append(lowered.moves, image);
    const size_t pieces = Append(lowered.pieces, image);
    const size_t bulk_pieces = Append(lowered.bulk_pieces, image);
    const size_t quantisations = Append(lowered.quantisations, image);
    const size_t digests = Append(lowered.digests, image);
    const auto lists = ListsOf(lowered);
    size_t tiles[kNumLists] = {};
    for (size_t i = 0; i < kNumLists; ++i) {
      tiles[i] = Append(*lists[i], image);
    }
    void* memory = nullptr;
    WEFT_RETURN_IF_CUDA_ERROR(cudaMalloc(&memory, upload_at + image.size()),
                              "allocating memory for descriptors");
    memory_ = static_cast<std::byte*>(memory);
    info_.device_bytes = static_cast<int64_t>(upload_at + image.size());
    std::byte* const base = memory_ + upload_at;
    if (!image.empty()) {
      WEFT_RETURN_IF_CUDA_ERROR(
          cudaMemcpy(base, image.data(), image.size(), cudaMemcpyHostToDevice),
          "uploading descriptors");
    }
    stop_ = reinterpret_cast<uint32_t*>(memory_);
    amax_ = reinterpret_cast<uint32_t*>(memory_ + kStopBytes);
    values_ = reinterpret_cast<DigestValue*>(memory_ + values_at);
    moves_ = reinterpret_cast<const MoveOp*>(base + moves);
    pieces_ = reinterpret_cast<const Piece*>(base + pieces);
    bulk_pieces_ = reinterpret_cast<const Piece*>(base + bulk_pieces);
    quantisations_ = reinterpret_cast<const QuantiseOp*>(base + quantisations);
    digests_ = reinterpret_cast<const DigestOp*>(base + digests);
    for (size_t i = 0; i < kNumLists; ++i) {
      lists_[i] = {reinterpret_cast<const Tile*>(base + tiles[i]),
                   static_cast<uint32_t>(lists[i]->size())};
    }
    return absl::OkStatus();
  }

  template <typename T>
  static size_t Append(const std::vector<T>& from,
                       std::vector<std::byte>& image) {
    const size_t at = RoundUp(image.size());
    image.resize(at + from.size() * sizeof(T));
    if (!from.empty()) {
      std::memcpy(image.data() + at, from.data(), from.size() * sizeof(T));
    }
    return at;
  }

  // A stop may come late: not into a run that was not meant.
  absl::Status ClearAbort() {
    if (!aborted_) return absl::OkStatus();
    WEFT_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(abort_),
                              "waiting for the stop");
    aborted_ = false;
    WEFT_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(done_),
                              "waiting for the run that was stopped");
    return ToStatus(cudaMemset(stop_, 0, kStopBytes), "clearing the stop");
  }

  cudaError_t ClearScratch(cudaStream_t stream, const LaunchOptions& options) {
    if (num_amax_ > 0) {
      const cudaError_t error = cudaMemsetAsync(
          amax_, 0, static_cast<size_t>(num_amax_) * sizeof(uint32_t), stream);
      if (error != cudaSuccess) return error;
    }
    if (options.constants == nullptr || num_values_ == 0) return cudaSuccess;
    return cudaMemsetAsync(
        values_, 0, static_cast<size_t>(num_values_) * sizeof(DigestValue),
        stream);
  }

  bool HasKernels() const {
    for (size_t i = 0; i < kDigestWhole; ++i) {
      if (lists_[i].count > 0) return true;
    }
    return false;
  }

  cudaError_t Fork(cudaStream_t stream) {
    const cudaError_t error = cudaEventRecord(fork_, stream);
    return error != cudaSuccess ? error : cudaStreamWaitEvent(side_, fork_, 0);
  }

  absl::Status LaunchEngine(cudaStream_t stream) {
    if (engine_.empty()) return absl::OkStatus();
    for (const EngineCopy& copy : engine_) {
      if (copy.height == 1 && copy.depth == 1) continue;
      WEFT_RETURN_IF_CUDA_ERROR(LaunchPitched(copy, stream),
                                "copying rows by an engine");
    }
    if (lines_.sizes.empty()) return absl::OkStatus();
    cudaMemcpyAttributes attributes = {};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    size_t first = 0;
    return ToStatus(
        cudaMemcpyBatchAsync(lines_.dst.data(), lines_.src.data(),
                             lines_.sizes.data(), lines_.sizes.size(),
                             &attributes, &first, 1, stream),
        "copying by an engine");
  }

  static cudaError_t LaunchPitched(const EngineCopy& copy,
                                   cudaStream_t stream) {
    if (copy.depth == 1) {
      return cudaMemcpy2DAsync(
          copy.dst, static_cast<size_t>(copy.dst_pitch), copy.src,
          static_cast<size_t>(copy.src_pitch), static_cast<size_t>(copy.width),
          static_cast<size_t>(copy.height), cudaMemcpyDefault, stream);
    }
    const auto width = static_cast<size_t>(copy.width);
    cudaMemcpy3DParms parms = {};
    parms.srcPtr = {const_cast<std::byte*>(copy.src),
                    static_cast<size_t>(copy.src_pitch), width,
                    static_cast<size_t>(copy.src_slice_rows)};
    parms.dstPtr = {copy.dst, static_cast<size_t>(copy.dst_pitch), width,
                    static_cast<size_t>(copy.dst_slice_rows)};
    parms.extent = {width, static_cast<size_t>(copy.height),
                    static_cast<size_t>(copy.depth)};
    parms.kind = cudaMemcpyDefault;
    return cudaMemcpy3DAsync(&parms, stream);
  }

  cudaError_t LaunchKernels(const Grid& grid, const LaunchOptions& options) {
    const DigestSink sink{num_values_ > 0 ? options.constants : nullptr,
                          values_};
    cudaError_t error = cudaSuccess;
    const auto ready = [&](List list) {
      return error == cudaSuccess && lists_[list].count > 0;
    };
    if (ready(kRows)) error = LaunchRows(grid, lists_[kRows], moves_);
    if (ready(kBytes)) {
      error = LaunchBytes(grid, lists_[kBytes], moves_, pieces_);
    }
    if (ready(kBulk)) error = LaunchBulk(grid, lists_[kBulk], bulk_pieces_);
    for (const List list : {kWide, kTall}) {
      if (ready(list)) {
        error = LaunchWide(grid, lists_[list], list == kTall, moves_);
      }
    }
    if (ready(kElements)) {
      error = LaunchElements(grid, lists_[kElements], moves_);
    }
    for (const bool whole : {true, false}) {
      const List list = whole ? kFusedWhole : kFusedParts;
      if (ready(list)) {
        error =
            LaunchDigests(grid, lists_[list], digests_, {whole, true}, sink);
      }
    }
    if (ready(kBlocks)) {
      error = LaunchBlocks(grid, lists_[kBlocks], quantisations_, sink);
    }
    if (ready(kHeld)) {
      error = LaunchHeld(grid, lists_[kHeld], quantisations_, sink);
    }
    if (ready(kChunks)) {
      error = LaunchMaxima(grid, lists_[kChunks], quantisations_, amax_);
    }
    if (ready(kChunks)) {
      error = LaunchChunks(grid, lists_[kChunks], quantisations_, amax_);
    }
    return error;
  }

  cudaError_t LaunchLast(const Grid& grid, const LaunchOptions& options) {
    const bool digests = options.constants != nullptr && num_values_ > 0;
    cudaError_t error = cudaSuccess;
    for (const bool whole : {true, false}) {
      const List list = whole ? kDigestWhole : kDigestParts;
      if (error == cudaSuccess && digests && lists_[list].count > 0) {
        error = LaunchDigests(grid, lists_[list], digests_, {whole, false},
                              {options.constants, values_});
      }
    }
    if (error != cudaSuccess || !digests || !options.values_to_host) {
      return error;
    }
    return cudaMemcpyAsync(
        host_values_, values_,
        static_cast<size_t>(num_values_) * sizeof(DigestValue),
        cudaMemcpyDeviceToHost, grid.stream);
  }

  // The engine's copies of one row each, as the runtime wants a batch of them.
  void GatherLines() {
    for (const EngineCopy& copy : engine_) {
      if (copy.height != 1 || copy.depth != 1) continue;
      lines_.src.push_back(copy.src);
      lines_.dst.push_back(copy.dst);
      lines_.sizes.push_back(static_cast<size_t>(copy.width));
    }
  }

  struct Lines {
    std::vector<const void*> src;
    std::vector<void*> dst;
    std::vector<size_t> sizes;
  };

  const int device_;
  const std::vector<EngineCopy> engine_;
  ProgramInfo info_;
  const int64_t num_values_;
  const int64_t num_amax_;
  Lines lines_;
  int all_sms_ = 1;
  bool aborted_ = false;
  cudaStream_t side_ = nullptr;   // copies of the engines beside kernels
  cudaStream_t abort_ = nullptr;  // what must not wait behind them
  cudaEvent_t fork_ = nullptr;
  cudaEvent_t join_ = nullptr;
  cudaEvent_t done_ = nullptr;
  std::byte* memory_ = nullptr;
  size_t scratch_bytes_ = 0;
  uint32_t* stop_ = nullptr;
  uint32_t* amax_ = nullptr;
  DigestValue* values_ = nullptr;
  const MoveOp* moves_ = nullptr;
  const Piece* pieces_ = nullptr;
  const Piece* bulk_pieces_ = nullptr;
  const QuantiseOp* quantisations_ = nullptr;
  const DigestOp* digests_ = nullptr;
  TileList lists_[kNumLists];
  DigestValue* host_values_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Program>> BuildProgram(
    int device, const ProgramSpec& spec, const ProgramOptions& options) {
  WEFT_RETURN_IF_ERROR(DeviceAvailable());
  Costs costs;
  WEFT_ASSIGN_OR_RETURN(costs.has_bulk_copies, HasBulkCopies(device));
  WEFT_ASSIGN_OR_RETURN(Lowered lowered, Lower(spec, options, costs));
  if (lowered.info.tiles > kMostTiles) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the program needs ", lowered.info.tiles,
                     " tiles, at most ", kMostTiles, " are possible"));
  }
  const CurrentDevice current(device);
  WEFT_RETURN_IF_ERROR(current.status());
  auto program = std::make_unique<DeviceProgram>(device, lowered);
  WEFT_RETURN_IF_ERROR(program->Prepare(lowered));
  return program;
}

}  // namespace weft::convert::cuda
