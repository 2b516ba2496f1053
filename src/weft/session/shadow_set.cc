#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/run_threads.h"
#include "weft/base/status.h"
#include "weft/session/shadow_set_internal.h"

namespace weft::session {
namespace {

// What a thread takes at a time.
constexpr int64_t kPieceBytes = int64_t{1} << 20;
// Contents of the host change places through this much, in a core's own cache.
constexpr int64_t kHostBounceBytes = int64_t{32} << 10;
// From some MiB on a GPU copies its own memory at full rate, but copies of one
// queue begin 2.5 us apart, and there are as many as tensors (16.4 GB of
// Qwen3-8B in one queue: 0.88 of one copy). Those of other queues fill the
// gaps.
constexpr int64_t kDevicePieceBytes = int64_t{64} << 20;
constexpr int64_t kDeviceQueues = 4;
// For all queues together.
constexpr int64_t kDeviceBounceBytes = int64_t{64} << 20;
// A tensor has the same address in both sets, modulo this: kernels and
// transports find the alignment that they were given.
constexpr int64_t kAlignmentBytes = 512;

// The bytes of one stored tensor in the receiver's memory.
struct Extent {
  size_t stored = 0;
  std::byte* begin = nullptr;
  int64_t bytes = 0;
};

// Extents that overlap or touch, and where they go in the buffer of set 1.
struct Group {
  std::byte* begin = nullptr;
  int64_t bytes = 0;
  int64_t offset_bytes = 0;
};

void ExchangeBytes(std::byte* a, std::byte* b, int64_t bytes) {
  std::byte bounce[kHostBounceBytes];
  for (int64_t at = 0; at < bytes; at += kHostBounceBytes) {
    const auto part =
        static_cast<size_t>(std::min(kHostBounceBytes, bytes - at));
    std::memcpy(bounce, a + at, part);
    std::memcpy(a + at, b + at, part);
    std::memcpy(b + at, bounce, part);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShadowSet>> ShadowSet::Make(
    const ReceiverOptions& options) {
  std::unique_ptr<ShadowSet> set(new ShadowSet(options));
  WEFT_RETURN_IF_ERROR(set->Allocate());
  set->sets_ = {&options.memory, &set->own_};
  return set;
}

// What lies on the host, or on the GPU.
struct ShadowSet::Side {
  int device = memory::kHostMemory;
  std::vector<Extent> extents;   // by ascending address
  std::vector<int64_t> offsets;  // of the extents in the buffer of set 1
  std::vector<Group> groups;
  int64_t buffer_bytes = 0;

  // After all extents are in.
  void LayOut() {
    std::sort(extents.begin(), extents.end(),
              [](const Extent& a, const Extent& b) {
                return std::less<>()(a.begin, b.begin);
              });
    for (const Extent& extent : extents) {
      if (groups.empty() ||
          extent.begin > groups.back().begin + groups.back().bytes) {
        const auto lead = static_cast<int64_t>(
            reinterpret_cast<uintptr_t>(extent.begin) % kAlignmentBytes);
        groups.push_back({extent.begin, 0,
                          base::AlignUp(buffer_bytes, kAlignmentBytes) + lead});
      }
      Group& group = groups.back();
      const int64_t within = extent.begin - group.begin;
      group.bytes = std::max(group.bytes, within + extent.bytes);
      offsets.push_back(group.offset_bytes + within);
      buffer_bytes = group.offset_bytes + group.bytes;
    }
  }
};

absl::Status ShadowSet::Allocate() {
  const RankMemory& given = options_.memory;
  Side host, gpu;
  WEFT_ASSIGN_OR_RETURN(gpu.device, DeviceOf(given));
  for (size_t i = 0; i < options_.placement.stored.size(); ++i) {
    WEFT_ASSIGN_OR_RETURN(const int64_t bytes,
                          StoredBytes(options_.placement.stored[i]));
    const MemoryArea& area = given.areas[given.stored[i].buffer];
    (area.device == memory::kHostMemory ? host : gpu)
        .extents.push_back({i, StoredBase(given, i), bytes});
  }
  host.LayOut();
  gpu.LayOut();
  const ShadowOptions& shadow = options_.shadow;
  if (shadow.keep_previous && !shadow.swap) {
    queue_bounce_bytes_ = base::AlignUp(
        std::min(kDeviceBounceBytes, gpu.buffer_bytes) / kDeviceQueues,
        kAlignmentBytes);
  }
  const int64_t bounce_bytes = queue_bounce_bytes_ * kDeviceQueues;
  const int64_t needed_bytes =
      host.buffer_bytes + gpu.buffer_bytes + bounce_bytes;
  if (needed_bytes > shadow.budget_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the second set of buffers needs ", needed_bytes,
                     " bytes, its budget is ", shadow.budget_bytes,
                     " bytes: allow more, or receive in place"));
  }
  own_.stored.resize(options_.placement.stored.size());
  if (!host.extents.empty()) {
    WEFT_ASSIGN_OR_RETURN(
        buffer_,
        memory::Buffer::Allocate(memory::MemoryKind::kHost,
                                 std::max<int64_t>(host.buffer_bytes, 1)));
    own_.areas.push_back({buffer_->span(), buffer_.get()});
    Place(host, kPieceBytes, on_host_);
  }
  if (gpu.extents.empty()) return absl::OkStatus();
  if (options_.execute.device.driver == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "weights lie on GPU ", gpu.device, ", but no driver is given for it"));
  }
  memory::DeviceDriver& driver = *options_.execute.device.driver;
  WEFT_ASSIGN_OR_RETURN(
      device_buffer_,
      memory::DeviceBuffer::Allocate(driver, gpu.device,
                                     std::max<int64_t>(gpu.buffer_bytes, 1)));
  own_.areas.push_back(
      {.bytes = {device_buffer_->data(),
                 static_cast<size_t>(device_buffer_->size_bytes())},
       .device = gpu.device});
  Place(gpu, bounce_bytes > 0 ? queue_bounce_bytes_ : kDevicePieceBytes,
        on_device_);
  for (int64_t q = 0; q < kDeviceQueues; ++q) {
    WEFT_ASSIGN_OR_RETURN(queues_.emplace_back(), driver.MakeQueue(gpu.device));
  }
  if (bounce_bytes > 0) {
    WEFT_ASSIGN_OR_RETURN(bounce_, memory::DeviceBuffer::Allocate(
                                       driver, gpu.device, bounce_bytes));
  }
  return absl::OkStatus();
}

void ShadowSet::Place(const Side& side, int64_t piece_bytes,
                      std::vector<Stretch>& pieces) {
  const auto area = static_cast<int32_t>(own_.areas.size()) - 1;
  std::byte* const base = own_.areas.back().bytes.data();
  for (size_t e = 0; e < side.extents.size(); ++e) {
    own_.stored[side.extents[e].stored] = {area, side.offsets[e]};
  }
  for (const Group& group : side.groups) {
    stored_bytes_ += group.bytes;
    for (int64_t at = 0; at < group.bytes; at += piece_bytes) {
      pieces.push_back({group.begin + at, base + group.offset_bytes + at,
                        std::min(piece_bytes, group.bytes - at)});
    }
  }
}

absl::StatusOr<int64_t> ShadowSet::Switch(base::Deadline deadline) {
  if (options_.shadow.swap) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        options_.shadow.swap(receiving_memory()), "hook that swaps addresses"));
    live_ = receiving();
    return 0;
  }
  auto next = std::exchange(contents_[1], std::nullopt);
  auto last = std::exchange(contents_[0], std::nullopt);
  WEFT_RETURN_IF_ERROR(CopyContents(deadline));
  contents_[0] = std::move(next);
  if (options_.shadow.keep_previous) contents_[1] = std::move(last);
  return stored_bytes_;
}

absl::Status ShadowSet::CopyContents(base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(QueueOnDevice());
  CopyOnHost();
  for (const auto& queue : queues_) {
    WEFT_RETURN_IF_ERROR(
        queue->Wait(deadline, "copying the second set of buffers"));
  }
  return absl::OkStatus();
}

void ShadowSet::CopyOnHost() {
  std::atomic<size_t> next{0};
  base::RunThreads(
      options_.execute.num_threads, on_host_.size(), [this, &next] {
        for (size_t i = next++; i < on_host_.size(); i = next++) {
          const Stretch& stretch = on_host_[i];
          if (options_.shadow.keep_previous) {
            ExchangeBytes(stretch.live, stretch.own, stretch.bytes);
          } else {
            std::memcpy(stretch.live, stretch.own,
                        static_cast<size_t>(stretch.bytes));
          }
        }
      });
}

absl::Status ShadowSet::QueueOnDevice() {
  if (options_.execute.device.stream.has_value()) {
    for (const auto& queue : queues_) {
      WEFT_RETURN_IF_ERROR(
          queue->WaitForStream(*options_.execute.device.stream));
    }
  }
  for (size_t i = 0; i < on_device_.size(); ++i) {
    const Stretch& stretch = on_device_[i];
    const size_t q = i % queues_.size();
    memory::DeviceQueue& queue = *queues_[q];
    if (bounce_ == nullptr) {
      WEFT_RETURN_IF_ERROR(
          queue.Copy(stretch.live, stretch.own, stretch.bytes));
      continue;
    }
    std::byte* const bounce =
        bounce_->data() + static_cast<int64_t>(q) * queue_bounce_bytes_;
    WEFT_RETURN_IF_ERROR(queue.Copy(bounce, stretch.live, stretch.bytes));
    WEFT_RETURN_IF_ERROR(queue.Copy(stretch.live, stretch.own, stretch.bytes));
    WEFT_RETURN_IF_ERROR(queue.Copy(stretch.own, bounce, stretch.bytes));
  }
  return absl::OkStatus();
}

}  // namespace weft::session
