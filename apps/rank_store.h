// The memory of a rank that a command stands in for: shared pages, or the
// memory of a GPU with a copy on the host, in which files are read, stepped and
// written.
#ifndef WEFT_APPS_RANK_STORE_H_
#define WEFT_APPS_RANK_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/execute/device_options.h"
#include "weft/manifest/placement.h"
#include "weft/memory/device.h"
#include "weft/memory/opened_handles.h"
#include "weft/session/memory_area.h"

namespace CLI {
class App;
}

namespace weft::apps {

// The GPU of --device; none for "cpu".
struct DeviceChoice {
  int device = memory::kHostMemory;
  memory::DeviceDriver* driver = nullptr;  // null for "cpu"
  // Memory of other processes' GPUs that this one has open; null for "cpu".
  std::shared_ptr<memory::OpenedHandles> handles = nullptr;
  execute::DeviceOptions Options(int num_sms = 0) const {
    return {.driver = driver, .num_sms = num_sms};
  }
};
// "cpu", "cuda", "cuda:1". kUnavailable, with the reason, when a GPU is asked
// for and none is there.
absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& text);

// Declares --device.
void AddDeviceOption(CLI::App& command, std::string& text);

class RankStore {
 public:
  static absl::StatusOr<std::unique_ptr<RankStore>> Allocate(
      const manifest::Placement& placement, const DeviceChoice& choice);

  // What the session moves.
  const session::RankMemory& memory() const {
    return on_device() ? device_.memory : host_.memory;
  }
  // What the program itself may read and write.
  const session::RankMemory& host() const { return host_.memory; }
  // From host() to memory() and back; nothing to do without a GPU.
  absl::Status Upload();
  absl::Status Download();
  // Sets every byte of memory() to `value`.
  absl::Status Fill(uint8_t value);
  // Inverts one byte of memory() that no one else changes.
  absl::Status FlipByte();

 private:
  RankStore() = default;
  bool on_device() const { return device_.buffer != nullptr; }
  // Every stored tensor from one memory to the other: each has its own
  // alignment.
  absl::Status CopyAll(const session::RankMemory& from,
                       const session::RankMemory& to, const char* what);

  std::vector<int64_t> stored_bytes_;
  session::OwnedRankMemory host_;
  session::DeviceRankMemory device_;
  std::unique_ptr<memory::DeviceQueue> queue_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_RANK_STORE_H_
