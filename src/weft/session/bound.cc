#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/session/bound_internal.h"

namespace weft::session {
namespace {

// Beyond a core's share of the last-level cache.
constexpr int64_t kMostCopyBytesOfAThread = int64_t{64} << 20;
// Beyond the whole of it, and no burden beside the weights.
constexpr int64_t kMostCopyBytes = int64_t{512} << 20;
// A copy between GPUs reaches the link's rate from some 256 MiB on.
constexpr int64_t kDeviceProbeBytes = int64_t{1} << 30;

absl::StatusOr<double> MeasureMemcpy(int num_threads) {
  const int64_t share = CopyBytesOfAThread(num_threads);
  const int64_t bytes = share * num_threads;
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<memory::Buffer> src,
      memory::Buffer::Allocate(memory::MemoryKind::kShared, bytes));
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<memory::Buffer> dst,
      memory::Buffer::Allocate(memory::MemoryKind::kShared, bytes));
  std::memset(src->data(), 1, static_cast<size_t>(bytes));
  std::memset(dst->data(), 2, static_cast<size_t>(bytes));
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (int t = 0; t < num_threads; ++t) {
      threads.emplace_back([&, t] {
        std::memcpy(dst->data() + t * share, src->data() + t * share,
                    static_cast<size_t>(share));
      });
    }
    for (std::thread& thread : threads) thread.join();
    best = std::max(best, static_cast<double>(bytes) /
                              std::chrono::duration<double>(
                                  std::chrono::steady_clock::now() - start)
                                  .count());
  }
  return best;
}

// Null when no source has memory on a GPU.
const transport::RemoteRegion* LargestOnDevice(
    absl::Span<const std::unique_ptr<SourceLink>> links) {
  const transport::RemoteRegion* largest = nullptr;
  for (const auto& link : links) {
    for (const execute::RemoteStored& stored : link->RemoteRank().stored) {
      if (stored.region->device() == memory::kHostMemory) continue;
      if (largest == nullptr ||
          stored.region->size_bytes() > largest->size_bytes()) {
        largest = stored.region;
      }
    }
  }
  return largest;
}

absl::StatusOr<double> MeasureDeviceCopy(const transport::RemoteRegion& region,
                                         memory::DeviceDriver& driver,
                                         base::Deadline deadline) {
  const int64_t bytes = std::min(region.size_bytes(), kDeviceProbeBytes);
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<memory::DeviceBuffer> scratch,
      memory::DeviceBuffer::Allocate(driver, region.device(), bytes));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<memory::DeviceQueue> queue,
                        driver.MakeQueue(region.device()));
  double best = 0;
  for (int repeat = 0; repeat < 4; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    WEFT_RETURN_IF_ERROR(queue->Copy(scratch->data(), region.mapped(), bytes));
    WEFT_RETURN_IF_ERROR(queue->Wait(deadline, "measuring the link"));
    best = std::max(best, static_cast<double>(bytes) /
                              std::chrono::duration<double>(
                                  std::chrono::steady_clock::now() - start)
                                  .count());
  }
  return best;
}

absl::StatusOr<Bound> MeasureBound(
    absl::Span<const std::unique_ptr<SourceLink>> links,
    const execute::ExecuteOptions& options, int device,
    base::Deadline deadline) {
  const int num_threads = options.num_threads;
  Bound bound;
  const transport::RemoteRegion* const on_device = LargestOnDevice(links);
  if (on_device != nullptr) {
    WEFT_ASSIGN_OR_RETURN(
        bound.bytes_per_second,
        MeasureDeviceCopy(*on_device, *options.device.driver, deadline));
    bound.name = "one copy by the GPU's copy engines";
    return bound;
  }
  const bool any_mapped =
      std::any_of(links.begin(), links.end(),
                  [](const auto& link) { return link->mapped(); });
  if (any_mapped) {
    WEFT_ASSIGN_OR_RETURN(bound.bytes_per_second, MeasureMemcpy(num_threads));
    bound.name = absl::StrCat("memcpy, ", num_threads,
                              num_threads == 1 ? " thread" : " threads");
  }
  double best_posted = 0;
  for (const auto& link : links) {
    if (link->mapped()) continue;
    WEFT_ASSIGN_OR_RETURN(
        const double rate,
        link->MeasureReadRate(options.device.driver, device, deadline));
    if (rate > best_posted) {
      best_posted = rate;
      if (!any_mapped || rate < bound.bytes_per_second) {
        bound.name = absl::StrCat(link->transport_name(),
                                  device == memory::kHostMemory
                                      ? " reads of up to 1 MiB"
                                      : " reads of up to 16 MiB");
      }
    }
  }
  if (best_posted > 0 &&
      (!any_mapped || best_posted < bound.bytes_per_second)) {
    bound.bytes_per_second = best_posted;
  }
  return bound;
}

}  // namespace

int64_t CopyBytesOfAThread(int num_threads) {
  return std::min(kMostCopyBytesOfAThread, kMostCopyBytes / num_threads);
}

absl::Status RaiseBound(absl::Span<const std::unique_ptr<SourceLink>> links,
                        const execute::ExecuteOptions& options, int device,
                        base::Deadline deadline, Bound& best) {
  WEFT_ASSIGN_OR_RETURN(Bound measured,
                        MeasureBound(links, options, device, deadline));
  if (measured.bytes_per_second > best.bytes_per_second) {
    best = std::move(measured);
  }
  return absl::OkStatus();
}

}  // namespace weft::session
