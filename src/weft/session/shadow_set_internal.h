// A second set of buffers for what a rank holds, so that a version can be
// received beside the one that is served.
#ifndef WEFT_SESSION_SHADOW_SET_INTERNAL_H_
#define WEFT_SESSION_SHADOW_SET_INTERNAL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/memory/buffer.h"
#include "weft/memory/device.h"
#include "weft/session/memory_area.h"
#include "weft/session/receiver.h"

namespace weft::session {

// Two sets of the same stored tensors: set 0 is the memory that the receiver
// was given, set 1 its own. One of them is live (what the engine reads, always
// set 0 unless addresses are swapped), the other one receives. Stretches of
// memory that stored tensors share are kept, and copied, once.
//
// Threads: one caller at a time.
class ShadowSet {
 public:
  // Allocates set 1, on the GPU what lies there. `options` must outlive it.
  // kResourceExhausted with both figures when it does not fit the budget.
  static absl::StatusOr<std::unique_ptr<ShadowSet>> Make(
      const ReceiverOptions& options);

  // The set that receives, and which one that is.
  size_t receiving() const { return 1 - live_; }
  const RankMemory& receiving_memory() const { return *sets_[receiving()]; }
  // What it holds in full, if anything: the previous version, before a
  // transfer begins.
  const std::optional<catalog::VersionId>& received() const {
    return contents_[receiving()];
  }

  // A transfer begins: what the receiving set held is lost.
  void BeginTransfer() { contents_[receiving()].reset(); }
  // It has ended, and all digests agree.
  void EndTransfer(const catalog::VersionId& version) {
    contents_[receiving()] = version;
  }

  // The engine reads `received()` from now on: swaps addresses by the hook, or
  // exchanges or copies contents. Returns the bytes that the live set was given
  // by it, 0 where addresses were swapped. After an error what the engine reads
  // may be torn.
  absl::StatusOr<int64_t> Switch(base::Deadline deadline);

 private:
  // Memory of both sets that holds the same thing.
  struct Stretch {
    std::byte* live = nullptr;  // of set 0
    std::byte* own = nullptr;   // of set 1
    int64_t bytes = 0;
  };

  struct Side;

  explicit ShadowSet(const ReceiverOptions& options) : options_(options) {}
  absl::Status Allocate();
  // Gives the stored tensors of one side their places in the last area.
  void Place(const Side& side, int64_t piece_bytes,
             std::vector<Stretch>& pieces);
  absl::Status CopyContents(base::Deadline deadline);
  void CopyOnHost();
  absl::Status QueueOnDevice();

  const ReceiverOptions& options_;
  RankMemory own_;
  std::array<const RankMemory*, 2> sets_{};
  std::array<std::optional<catalog::VersionId>, 2> contents_;
  size_t live_ = 0;
  int64_t stored_bytes_ = 0;
  // Cut into what one thread or one copy takes at a time.
  std::vector<Stretch> on_host_;
  std::vector<Stretch> on_device_;
  std::unique_ptr<memory::Buffer> buffer_;
  std::unique_ptr<memory::DeviceBuffer> device_buffer_;
  // Contents of a GPU change places through it, each queue through a part of
  // its own; null when they need not.
  std::unique_ptr<memory::DeviceBuffer> bounce_;
  int64_t queue_bounce_bytes_ = 0;
  std::vector<std::unique_ptr<memory::DeviceQueue>> queues_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_SHADOW_SET_INTERNAL_H_
