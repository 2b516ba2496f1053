#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/device_program_internal.h"
#include "weft/execute/far_run_internal.h"
#include "weft/execute/helpers_internal.h"
#include "weft/execute/planes.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"

namespace weft::execute {
namespace {

namespace cuda = convert::cuda;
using Clock = base::Deadline::Clock;

constexpr std::chrono::milliseconds kHealthPeriod{4};
constexpr std::chrono::microseconds kSpin{500};
// After an abort kernels end within a tile; a copy of the engines ends when it
// is done, which at the slowest link takes this long for some 50 GB.
constexpr std::chrono::seconds kDrainPatience{10};
// What is digested while the next batch is copied: long beside the cost of a
// launch (some 50 us), and the last one short beside a refit.
constexpr int64_t kLargestBatchBytes = int64_t{1} << 30;
constexpr int64_t kSmallestBatchBytes = int64_t{64} << 20;
// A batch is so much of what is left.
constexpr int64_t kBatchesLeft = 4;
// Contiguous copies are left to the copy engines whatever they cost, half a
// microsecond each: kernels wait until the digests of the batch before have
// left the multiprocessors. Unless a move has more of them than this and they
// are short.
constexpr size_t kFewRuns = 4;
constexpr int64_t kLeastLineBytes = 1024;
// Multiprocessors that digests take: faster than the link, for items of a byte
// too, and the rest is left to the engine. With all of them 16.4 GB of bf16
// arrived in 42.5 ms and not in 41.4 (two H200s); FP8 gains nothing by it.
constexpr int kDigestSms = 32;
// A source of zeros of any item size.
constexpr int64_t kZeroBytes = 64;
constexpr int64_t kPinnedPageBytes = 4096;
// Digests that are worth a thread of their own (some 50 us) to the host.
constexpr int64_t kLeastValuesOfHelper = 20000;

double SecondsBetween(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// What a helper writes and the driving thread looks at.
struct BesideState {
  std::atomic<bool> done{false};
  absl::Status status;  // valid when done
};

}  // namespace

absl::StatusOr<int> DeviceOf(const BindInputs& inputs) {
  int near = memory::kHostMemory;
  for (const LocalStored& local : inputs.local) {
    if (local.device == memory::kHostMemory || local.device == near) continue;
    if (near != memory::kHostMemory) {
      return absl::InvalidArgumentError(
          absl::StrCat("the memory of one rank lies on GPU ", near, " and on ",
                       local.device, "; give each GPU a rank of its own"));
    }
    near = local.device;
  }
  int device = near;
  for (const RemoteRank& remote : inputs.remotes) {
    for (const RemoteStored& stored : remote.stored) {
      if (device != memory::kHostMemory || stored.region == nullptr) continue;
      device = stored.region->device();
    }
  }
  if (device != memory::kHostMemory &&
      inputs.options.device.driver == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "memory of GPU ", device, " is given, but no driver for it"));
  }
  return device;
}

// Turns bound moves into the batches' programs.
class DeviceProgram::Compiler {
 public:
  Compiler(DeviceProgram& program, const BindInputs& inputs)
      : program_(program), in_(inputs) {
    for (const BoundMove& move : program.binding_.moves) {
      left_bytes_ += move.dst_bytes;
      in_order_.push_back(&move);
    }
    std::stable_sort(in_order_.begin(), in_order_.end(),
                     [](const BoundMove* a, const BoundMove* b) {
                       return a->dst_bytes > b->dst_bytes;
                     });
  }

  absl::Status Compile() {
    if (pull()) WEFT_RETURN_IF_ERROR(AddZeroFills());
    for (const BoundMove* const move : in_order_) {
      AddCopies(*move);
      if (pull()) WEFT_RETURN_IF_ERROR(AddDigest(*move));
      bytes_ += move->dst_bytes;
      if (bytes_ >= BatchBytes()) WEFT_RETURN_IF_ERROR(CloseBatch());
    }
    return CloseBatch();
  }

 private:
  bool pull() const { return in_.direction == Direction::kPull; }
  int64_t BatchBytes() const {
    return std::clamp(left_bytes_ / kBatchesLeft, kSmallestBatchBytes,
                      kLargestBatchBytes);
  }
  const std::byte* SrcOf(const BoundMove& move) const {
    return pull() ? move.far_mapped : move.near;
  }
  std::byte* DstOf(const BoundMove& move) const {
    return pull() ? move.near : move.far_mapped;
  }

  void AddCopies(const BoundMove& move) {
    // A converted value is digested as it is read: afterwards it is gone.
    if (pull() && move.converted_table >= 0) return;
    for (const layout::Run& run : *move.runs) {
      // Both ends are addresses to the GPU: "far" is the source here.
      const FarRun bytes =
          MakeFarRun(run, move.conversion, Direction::kPull, 0, 0);
      cuda::Copy copy;
      copy.copy = MakeCopy(bytes, move.conversion, Direction::kPull);
      copy.copy.src = SrcOf(move) + bytes.far_offset_bytes;
      copy.copy.dst = DstOf(move) + bytes.near_offset_bytes;
      const bool is_line =
          move.conversion.identity() &&
          run.contiguous_elements() == run.num_elements() &&
          (move.runs->size() <= kFewRuns ||
           run.num_elements() * tensor::ItemBytes(move.conversion.to) >=
               kLeastLineBytes);
      (is_line ? lines_ : copies_).copies.push_back(std::move(copy));
    }
  }

  // A table of digests over the tiles of `box`: in the program of the copies
  // for what converts, else in the one that follows it.
  absl::Status AddDigest(const BoundMove& move) {
    const tensor::TileGrid grid = tensor::TileGrid::Of(move.box);
    const bool converts = move.converted_table >= 0;
    cuda::ProgramSpec& spec = converts ? copies_ : digests_;
    names_.push_back({{program_.binding_.peers[move.peer].plan_peer,
                       static_cast<size_t>(move.witness ? move.plan_witness
                                                        : move.plan_move),
                       move.witness},
                      spec.num_values,
                      grid.num_tiles,
                      converts});
    if (converts) {
      AddConvertedPlanes(move, grid, spec.num_values);
    } else {
      layout::IndexMap block;
      if (move.witness) {
        const tensor::Shape shape = move.box.shape();
        const tensor::Shape origin(shape.size(), 0);
        WEFT_ASSIGN_OR_RETURN(
            block, layout::IndexMap::RowMajor(move.box, shape, origin));
      }
      AppendDigests(move.box, move.witness ? block : *move.dst_map, move.near,
                    static_cast<int>(tensor::ItemBytes(move.conversion.to)),
                    grid, spec.num_values, spec.digests);
    }
    spec.num_values += grid.num_tiles;
    program_.num_values_ += grid.num_tiles;
    return absl::OkStatus();
  }

  void AddConvertedPlanes(const BoundMove& move, const tensor::TileGrid& grid,
                          int64_t first_value) {
    const int64_t src_item = tensor::ItemBytes(move.conversion.from);
    const int64_t dst_item = tensor::ItemBytes(move.conversion.to);
    const layout::IndexMap* const maps[] = {move.src_map, move.dst_map};
    ForEachPlane(move.box, maps, [&](const Plane& plane) {
      cuda::Copy copy;
      copy.copy.src = SrcOf(move) + plane.offset[0] * src_item;
      copy.copy.dst = DstOf(move) + plane.offset[1] * dst_item;
      copy.copy.conversion = move.conversion;
      copy.copy.modes = {{plane.rows, plane.row_stride[0] * src_item,
                          plane.row_stride[1] * dst_item},
                         {plane.cols, plane.col_stride[0] * src_item,
                          plane.col_stride[1] * dst_item}};
      copy.source_digest = PlaceOf(plane, grid, first_value);
      copies_.copies.push_back(std::move(copy));
    });
  }

  absl::Status AddZeroFills() {
    for (const plan::ZeroFill& fill : in_.plan.zero_fills) {
      const LocalStored& local = in_.local[fill.dst_stored];
      if (local.device == memory::kHostMemory || fill.box.empty()) continue;
      const layout::StoredTensor& stored = in_.target.stored[fill.dst_stored];
      const int64_t item = tensor::ItemBytes(stored.dtype);
      if (program_.zeros_ == nullptr) {
        WEFT_ASSIGN_OR_RETURN(program_.zeros_, memory::DeviceBuffer::Allocate(
                                                   *in_.options.device.driver,
                                                   in_.device, kZeroBytes));
      }
      cuda::Copy copy;
      copy.copy.src = program_.zeros_->data();
      copy.copy.conversion = {stored.dtype, stored.dtype};
      int64_t offset = 0;
      int64_t stride = item;
      for (int d = fill.box.rank() - 1; d >= 0; --d) {
        offset += fill.box.range(d).begin * stride;
        if (fill.box.extent(d) > 1) {
          copy.copy.modes.insert(copy.copy.modes.begin(),
                                 {fill.box.extent(d), 0, stride});
        }
        stride *= stored.shape[d];
      }
      copy.copy.dst = local.base + offset;
      copies_.copies.push_back(std::move(copy));
    }
    return absl::OkStatus();
  }

  absl::Status CloseBatch() {
    Batch batch;
    const cuda::CopyWay way = in_.options.device.copy_way;
    WEFT_ASSIGN_OR_RETURN(
        batch.lines,
        Build(lines_,
              way == cuda::CopyWay::kByCost ? cuda::CopyWay::kEngines : way));
    WEFT_ASSIGN_OR_RETURN(batch.copies, Build(copies_, way));
    WEFT_ASSIGN_OR_RETURN(batch.digests, Build(digests_, way));
    for (const Named& each : names_) {
      program_.digests_[each.name] = {
          each.in_copies ? batch.copies.get() : batch.digests.get(),
          each.first_value, each.num_values};
      if (!each.name.witness) {
        batch.moves.push_back({each.name.peer, each.name.index});
      }
    }
    names_.clear();
    left_bytes_ -= std::exchange(bytes_, 0);
    if (batch.lines != nullptr || batch.copies != nullptr ||
        batch.digests != nullptr) {
      program_.batches_.push_back(std::move(batch));
    }
    return absl::OkStatus();
  }

  // Null when there is nothing to do; leaves `spec` empty.
  absl::StatusOr<std::unique_ptr<cuda::Program>> Build(cuda::ProgramSpec& spec,
                                                       cuda::CopyWay way) {
    const cuda::ProgramSpec taken = std::exchange(spec, {});
    if (taken.copies.empty() && taken.digests.empty()) {
      return std::unique_ptr<cuda::Program>();
    }
    const DeviceOptions& device = in_.options.device;
    return device.build(in_.device, taken, {.copy_way = way});
  }

  struct Named {
    DigestName name;
    int64_t first_value = 0;
    int64_t num_values = 0;
    bool in_copies = false;
  };
  DeviceProgram& program_;
  const BindInputs& in_;
  std::vector<const BoundMove*> in_order_;
  int64_t left_bytes_ = 0;  // of the batches that are not closed
  int64_t bytes_ = 0;       // of the one that is being filled
  cuda::ProgramSpec lines_;
  cuda::ProgramSpec copies_;
  cuda::ProgramSpec digests_;
  std::vector<Named> names_;
};

DeviceProgram::DeviceProgram(const BindInputs& inputs)
    : options_(inputs.options), device_(inputs.device) {}

DeviceProgram::~DeviceProgram() {
  // The queues wait for what runs before anything it uses goes.
  line_queue_.reset();
  copy_queue_.reset();
  digest_queue_.reset();
  for (std::byte* const address : pinned_) {
    options_.device.driver->Unpin(address).IgnoreError();
  }
}

absl::StatusOr<std::unique_ptr<Program>> DeviceProgram::Make(
    const BindInputs& inputs) {
  std::unique_ptr<DeviceProgram> program(new DeviceProgram(inputs));
  WEFT_RETURN_IF_ERROR(program->Compile(inputs));
  return std::unique_ptr<Program>(std::move(program));
}

absl::Status DeviceProgram::Compile(const BindInputs& inputs) {
  WEFT_ASSIGN_OR_RETURN(binding_, BindMemory(inputs));
  WEFT_RETURN_IF_ERROR(PinHostEnds(inputs));
  for (auto* const queue : {&line_queue_, &copy_queue_, &digest_queue_}) {
    WEFT_ASSIGN_OR_RETURN(*queue, options_.device.driver->MakeQueue(device_));
  }
  WEFT_RETURN_IF_ERROR(Compiler(*this, inputs).Compile());
  MakeReport();
  return absl::OkStatus();
}

absl::Status DeviceProgram::PinHostEnds(const BindInputs& inputs) {
  // Whole pages, each once, however many tensors share them.
  std::map<std::byte*, std::byte*> ranges;
  const auto add = [&](std::byte* begin, int64_t bytes) {
    const auto address = reinterpret_cast<uintptr_t>(begin);
    const uintptr_t first = address / kPinnedPageBytes * kPinnedPageBytes;
    const uintptr_t end =
        base::CeilDiv(static_cast<int64_t>(address) + bytes, kPinnedPageBytes) *
        kPinnedPageBytes;
    std::byte*& known = ranges[reinterpret_cast<std::byte*>(first)];
    known = std::max(known, reinterpret_cast<std::byte*>(end));
  };
  for (const LocalStored& local : inputs.local) {
    if (local.device == memory::kHostMemory && local.size_bytes > 0) {
      add(local.base, local.size_bytes);
    }
  }
  for (const BoundMove& move : binding_.moves) {
    if (move.far_region->device() == memory::kHostMemory) {
      add(move.far_region->mapped(), move.far_region->size_bytes());
    }
  }
  std::byte* end = nullptr;
  std::vector<std::pair<std::byte*, std::byte*>> joined;
  for (const auto& [begin, range_end] : ranges) {
    if (!joined.empty() && begin <= end) {
      joined.back().second = std::max(joined.back().second, range_end);
    } else {
      joined.push_back({begin, range_end});
    }
    end = joined.back().second;
  }
  for (const auto& [begin, range_end] : joined) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        options_.device.driver->Pin(begin, range_end - begin),
        absl::StrCat("pinning ", range_end - begin,
                     " bytes of host memory for GPU ", device_)));
    pinned_.push_back(begin);
  }
  return absl::OkStatus();
}

void DeviceProgram::MakeReport() {
  report_.peers.resize(binding_.peers.size());
  for (size_t p = 0; p < binding_.peers.size(); ++p) {
    report_.peers[p].rank = binding_.peers[p].rank;
    report_.peers[p].mapped = true;
    report_.peers[p].way = absl::StrCat("cuda:", device_);
  }
  for (const BoundMove& move : binding_.moves) {
    report_.bytes_on_wire += binding_.direction == Direction::kPull
                                 ? move.src_bytes
                                 : move.dst_bytes;
    total_bytes_ += move.dst_bytes;
    if (move.witness) continue;
    report_.bytes_moved += move.dst_bytes;
    report_.mapped_bytes += move.dst_bytes;
    report_.peers[move.peer].bytes += move.dst_bytes;
  }
}

absl::Status DeviceProgram::Launch() {
  const auto stream = [](memory::DeviceQueue& queue) {
    return reinterpret_cast<CUstream_st*>(queue.stream());
  };
  // Copies of rows and kernels have a queue of their own: what starts slowly,
  // or waits for multiprocessors, does not hold up the others.
  if (options_.device.stream.has_value()) {
    WEFT_RETURN_IF_ERROR(line_queue_->WaitForStream(*options_.device.stream));
    WEFT_RETURN_IF_ERROR(copy_queue_->WaitForStream(*options_.device.stream));
  }
  const cuda::LaunchOptions launch = {.num_sms = options_.device.num_sms,
                                      .constants = constants_};
  cuda::LaunchOptions digesting = launch;
  if (launch.num_sms == 0 || launch.num_sms > kDigestSms) {
    digesting.num_sms = kDigestSms;
  }
  for (const Batch& batch : batches_) {
    if (batch.lines != nullptr) {
      WEFT_RETURN_IF_ERROR(batch.lines->Launch(stream(*line_queue_), launch));
    }
    if (batch.copies != nullptr) {
      WEFT_RETURN_IF_ERROR(batch.copies->Launch(stream(*copy_queue_), launch));
    }
    if (batch.digests == nullptr || !digests()) continue;
    WEFT_RETURN_IF_ERROR(digest_queue_->WaitForStream(line_queue_->stream()));
    WEFT_RETURN_IF_ERROR(digest_queue_->WaitForStream(copy_queue_->stream()));
    WEFT_RETURN_IF_ERROR(
        batch.digests->Launch(stream(*digest_queue_), digesting));
  }
  return absl::OkStatus();
}

absl::Status DeviceProgram::CheckHealth() const {
  for (const BoundPeer& peer : binding_.peers) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        peer.peer->Health(),
        absl::StrCat("copies of GPU ", device_,
                     binding_.direction == Direction::kPull
                         ? " from publisher rank "
                         : " to receiver rank ",
                     peer.rank, ", ", peer.total_bytes, " bytes")));
  }
  return absl::OkStatus();
}

absl::Status DeviceProgram::Drive(Clock::time_point begin,
                                  base::Deadline deadline,
                                  ExecuteReport& report) {
  Clock::time_point next_health = begin;
  size_t next_batch = digests() && options_.digested ? 0 : batches_.size();
  BesideState beside;
  Helpers& helpers = HelpersOfRun();
  // Whatever the end is, nobody works on what this run leaves.
  const absl::Cleanup finish = [&helpers] { helpers.Finish(); };
  helpers.Add([this, &beside] {
    if (options_.beside) beside.status = options_.beside();
    beside.done = true;
  });
  while (true) {
    if (beside.done) WEFT_RETURN_IF_ERROR(beside.status);
    if (beside.done && next_batch < batches_.size()) {
      WEFT_ASSIGN_OR_RETURN(const bool done, Done(batches_[next_batch]));
      if (done) {
        std::vector<std::function<void()>> jobs;
        for (const MoveName& each : batches_[next_batch].moves) {
          jobs.push_back(
              [this, each] { options_.digested(each.peer, each.move); });
        }
        helpers.Add(std::move(jobs));
        ++next_batch;
        continue;
      }
    }
    WEFT_ASSIGN_OR_RETURN(const bool lines_copied, line_queue_->Idle());
    WEFT_ASSIGN_OR_RETURN(const bool rows_copied, copy_queue_->Idle());
    const bool copied = lines_copied && rows_copied;
    const Clock::time_point now = Clock::now();
    if (copied && report.copied_seconds == 0) {
      report.copied_seconds = SecondsBetween(begin, now);
    }
    WEFT_ASSIGN_OR_RETURN(const bool digested, digest_queue_->Idle());
    if (copied && digested) {
      if (report.digested_seconds == 0) {
        report.digested_seconds = SecondsBetween(begin, now);
      }
      const bool told = next_batch == batches_.size();
      if (told && beside.done && helpers.Idle()) return beside.status;
      if (told && helpers.DoOne()) continue;
    }
    if (now >= deadline.when()) {
      return absl::DeadlineExceededError(absl::StrCat(
          "deadline passed in copies of GPU ", device_, ", ", total_bytes_,
          " bytes from ", binding_.peers.size(), " ranks",
          copied ? ", all copied and not all digested" : ""));
    }
    if (now >= next_health) {
      next_health = now + kHealthPeriod;
      WEFT_RETURN_IF_ERROR(CheckHealth());
    }
    if (now - begin > kSpin) std::this_thread::yield();
  }
}

absl::StatusOr<bool> DeviceProgram::Done(const Batch& batch) const {
  for (const auto* program : {&batch.copies, &batch.digests}) {
    if (*program == nullptr) continue;
    WEFT_ASSIGN_OR_RETURN(const bool done, (*program)->Done());
    if (!done) return false;
  }
  return true;
}

size_t DeviceProgram::NumHelpers() const {
  if (!digests() || !options_.digested) return 0;
  return static_cast<size_t>(
      std::clamp(num_values_ / kLeastValuesOfHelper, int64_t{0},
                 static_cast<int64_t>(options_.num_threads) - 1));
}

Helpers& DeviceProgram::HelpersOfRun() {
  if (helpers_ == nullptr || helpers_->num_threads() < NumHelpers()) {
    helpers_ = std::make_unique<Helpers>(NumHelpers());
  }
  return *helpers_;
}

bool DeviceProgram::Drain() {
  for (const Batch& batch : batches_) {
    for (const auto* program : {&batch.lines, &batch.copies, &batch.digests}) {
      if (*program != nullptr) (*program)->Abort().IgnoreError();
    }
  }
  const base::Deadline deadline = base::Deadline::After(kDrainPatience);
  const auto stopped = [&](memory::DeviceQueue& queue) {
    // An error of the GPU means that its context is lost: nothing writes.
    return !absl::IsDeadlineExceeded(queue.Wait(deadline, "draining the GPU"));
  };
  return stopped(*line_queue_) && stopped(*copy_queue_) &&
         stopped(*digest_queue_);
}

absl::StatusOr<ExecuteReport> DeviceProgram::Run(base::Deadline deadline) {
  const Clock::time_point begin = Clock::now();
  for (memory::DeviceQueue* queue :
       {line_queue_.get(), copy_queue_.get(), digest_queue_.get()}) {
    WEFT_ASSIGN_OR_RETURN(const bool idle, queue->Idle());
    if (!idle) {
      return absl::UnavailableError(absl::StrCat(
          "work of an earlier run is still going on at GPU ", device_));
    }
  }
  absl::Status status = Launch();
  ExecuteReport report = report_;
  if (status.ok()) status = Drive(begin, deadline, report);
  // What was read is only good if the peer was still there afterwards.
  if (status.ok()) status = CheckHealth();
  if (!status.ok()) {
    if (Drain()) return status;
    return absl::Status(
        status.code(),
        absl::StrCat(std::string(status.message()), "; GPU ", device_,
                     " may still write: destroy the peer before using the "
                     "destination"));
  }
  if (options_.progress) options_.progress(total_bytes_, total_bytes_);
  report.seconds = SecondsBetween(begin, Clock::now());
  return report;
}

absl::Span<const std::byte> DeviceProgram::scratch() const { return {}; }

absl::Span<const convert::DigestValue> DeviceProgram::ValuesOf(
    const DigestName& name) const {
  const auto found = digests_.find(name);
  if (found == digests_.end() || found->second.program == nullptr) return {};
  const DigestSlice& slice = found->second;
  return slice.program->digest_values().subspan(
      static_cast<size_t>(slice.first_value),
      static_cast<size_t>(slice.num_values));
}

}  // namespace weft::execute
