#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/convert/cuda/testing/device_runner.h"

namespace weft::convert::cuda::testing {
namespace {

constexpr int64_t kArenaBytes = int64_t{256} << 20;
constexpr int64_t kGuardBytes = 1024;
constexpr int64_t kPhase = 256;
constexpr unsigned char kGuard = 0xa5;

absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

// Device memory that is handed out from the front, again for each run.
class Arena {
 public:
  absl::Status Make(int device) {
    WEFT_RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
    void* memory = nullptr;
    WEFT_RETURN_IF_ERROR(
        ToStatus(cudaMalloc(&memory, kArenaBytes), "cudaMalloc"));
    memory_ = static_cast<std::byte*>(memory);
    return absl::OkStatus();
  }
  ~Arena() { cudaFree(memory_); }

  void Reset() { used_ = 0; }
  std::byte* Take(const Memory& memory) {
    const auto phase =
        static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory.data) % kPhase);
    const int64_t at = used_ + kGuardBytes + phase;
    const int64_t end = at + memory.size + kGuardBytes;
    if (end > kArenaBytes) return nullptr;
    used_ = (end + kPhase - 1) / kPhase * kPhase;
    return memory_ + at;
  }

 private:
  std::byte* memory_ = nullptr;
  int64_t used_ = 0;
};

class DeviceRunner final : public Runner {
 public:
  absl::Status Make(int device, int data_device) {
    device_ = device;
    if (device != data_device) {
      WEFT_RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
      WEFT_RETURN_IF_ERROR(
          ToStatus(cudaDeviceEnablePeerAccess(data_device, 0), "peer access"));
    }
    WEFT_RETURN_IF_ERROR(read_.Make(data_device));
    WEFT_RETURN_IF_ERROR(written_.Make(device));
    return ToStatus(cudaStreamCreate(&stream_), "cudaStreamCreate");
  }
  ~DeviceRunner() override { cudaStreamDestroy(stream_); }

  absl::StatusOr<std::vector<DigestValue>> Run(
      const RunInputs& inputs) override {
    WEFT_RETURN_IF_ERROR(Mirror(inputs.memories));
    ProgramSpec spec = inputs.spec;
    Translate(spec);
    WEFT_ASSIGN_OR_RETURN(auto program,
                          BuildProgram(device_, spec, inputs.options));
    WEFT_RETURN_IF_ERROR(
        program->Launch(stream_, {inputs.num_sms, inputs.constants, true}));
    WEFT_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream_), "running"));
    WEFT_RETURN_IF_ERROR(BringBack());
    const auto values = program->digest_values();
    return std::vector<DigestValue>(values.begin(), values.end());
  }

 private:
  struct Mirrored {
    Memory memory;
    std::byte* device = nullptr;
  };

  absl::Status Mirror(absl::Span<const Memory> memories) {
    read_.Reset();
    written_.Reset();
    mirrored_.clear();
    for (const Memory& memory : memories) {
      if (memory.size <= 0) continue;
      Arena& arena = memory.written ? written_ : read_;
      std::byte* const device = arena.Take(memory);
      if (device == nullptr) {
        return absl::ResourceExhaustedError("the test's arena is too small");
      }
      const auto size = static_cast<size_t>(memory.size);
      for (std::byte* const guard : {device - kGuardBytes, device + size}) {
        WEFT_RETURN_IF_ERROR(
            ToStatus(cudaMemset(guard, kGuard, kGuardBytes), "cudaMemset"));
      }
      WEFT_RETURN_IF_ERROR(ToStatus(
          cudaMemcpy(device, memory.data, size, cudaMemcpyHostToDevice),
          "cudaMemcpy"));
      mirrored_.push_back({memory, device});
    }
    return ToStatus(cudaDeviceSynchronize(), "mirroring");
  }

  std::byte* Device(const std::byte* host) const {
    for (const Mirrored& each : mirrored_) {
      if (host >= each.memory.data &&
          host < each.memory.data + each.memory.size) {
        return each.device + (host - each.memory.data);
      }
    }
    return nullptr;
  }

  void Translate(ProgramSpec& spec) const {
    for (cuda::Copy& copy : spec.copies) {
      copy.copy.src = Device(copy.copy.src);
      copy.copy.dst = Device(copy.copy.dst);
    }
    for (Quantisation& work : spec.quantisations) {
      work.block.src = Device(work.block.src);
      work.block.dst = Device(work.block.dst);
      work.block.scales = Device(work.block.scales);
    }
    for (Digest& digest : spec.digests) digest.data = Device(digest.data);
  }

  // One transfer a memory, with both of its guards.
  absl::Status BringBack() {
    for (const Mirrored& each : mirrored_) {
      const auto size = static_cast<size_t>(each.memory.size);
      image_.resize(size + 2 * kGuardBytes);
      WEFT_RETURN_IF_ERROR(
          ToStatus(cudaMemcpy(image_.data(), each.device - kGuardBytes,
                              image_.size(), cudaMemcpyDeviceToHost),
                   "cudaMemcpy"));
      const auto begin = image_.begin() + kGuardBytes;
      const auto end = image_.end() - kGuardBytes;
      const auto is_not_guard = [](std::byte byte) {
        return byte != static_cast<std::byte>(kGuard);
      };
      if (std::any_of(image_.begin(), begin, is_not_guard) ||
          std::any_of(end, image_.end(), is_not_guard)) {
        return absl::DataLossError(absl::StrCat("a guard of a memory of ", size,
                                                " bytes was written"));
      }
      if (each.memory.written) std::copy(begin, end, each.memory.data);
    }
    return absl::OkStatus();
  }

  std::vector<std::byte> image_;
  int device_ = 0;
  Arena read_;
  Arena written_;
  std::vector<Mirrored> mirrored_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Runner>> MakeDeviceRunner(int device,
                                                         int data_device) {
  auto runner = std::make_unique<DeviceRunner>();
  WEFT_RETURN_IF_ERROR(runner->Make(device, data_device));
  return runner;
}

}  // namespace weft::convert::cuda::testing
