// One agent of NIXL: registered memory, known peers, messages, transfers.
#ifndef WEFT_TRANSPORT_NIXL_NIXL_AGENT_INTERNAL_H_
#define WEFT_TRANSPORT_NIXL_NIXL_AGENT_INTERNAL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/memory/device.h"
#include "weft/transport/nixl/nixl_library_internal.h"

namespace weft::transport::nixl {

// Memory as NIXL names it. For memory of the host the device number is free,
// so each registration has its own: one that overlaps another, or that comes
// after another at the same place, is never mistaken for it.
struct Memory {
  uint64_t address = 0;
  uint64_t bytes = 0;
  uint64_t device = 0;
  MemoryType type = MemoryType::kHost;
};

// Thread-safe by one lock: NIXL's default takes none. No call blocks on a
// peer. Its progress thread serves peers while this process computes.
class Agent {
 public:
  // `fake_gpus` (tests): to NIXL all memory is the host's.
  static absl::StatusOr<std::shared_ptr<Agent>> Make(
      std::shared_ptr<const Library> library, std::string name,
      bool fake_gpus = false);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  const std::string& name() const { return name_; }
  const Library& library() const { return *library_; }
  // What a peer loads to reach this agent; describes no memory.
  const std::string& connection() const { return connection_; }
  // Memory of `gpu`, or of the host (memory::kHostMemory), under a device
  // number that no other registration of host memory has.
  Memory Name(absl::Span<const std::byte> memory, int gpu);

  absl::Status Register(const Memory& memory);
  void Deregister(const Memory& memory);
  // What a peer loads to reach this memory.
  absl::StatusOr<std::string> Describe(const Memory& memory);

  // Makes `remote` known until as many Releases; kept by count, since several
  // peers of this process may lead to one agent.
  absl::Status Acquire(const std::string& remote, const std::string& metadata);
  void Release(const std::string& remote);
  // Adds memory of a known agent.
  absl::Status Load(const std::string& remote, const std::string& metadata);

  absl::Status Send(const std::string& remote, const std::string& bytes);
  std::vector<std::string> Receive();

  absl::StatusOr<Handle> Prepare(Operation operation, const Memory& local,
                                 const Memory& remote,
                                 const std::string& remote_agent);
  absl::Status Post(Handle request);
  NixlStatus Check(Handle request);
  // Not of one that is under way, unless Shut follows: NIXL forgets it, UCX
  // still writes its bytes.
  void Drop(Handle request);
  // The only way to end a transfer that does not end: nothing of it touches
  // memory of this process afterwards. All else of this agent ends with it, and
  // every later call fails with `why`.
  void Shut(std::string_view why);

 private:
  struct Remote {
    int users = 0;
    bool loaded = false;
  };

  Agent(std::shared_ptr<const Library> library, std::string name,
        bool fake_gpus)
      : library_(std::move(library)),
        name_(std::move(name)),
        fake_gpus_(fake_gpus) {}
  absl::Status Start();
  void CloseLocked();
  absl::StatusOr<Handle> RegistrationList(const Memory& memory);
  absl::StatusOr<Handle> TransferList(const Memory& memory);
  absl::Status LoadLocked(const std::string& remote,
                          const std::string& metadata);

  const std::shared_ptr<const Library> library_;
  const std::string name_;
  const bool fake_gpus_;
  std::string connection_;
  std::atomic<uint64_t> last_device_ = 0;
  // Guards all below. Not absl::Mutex: Debian's is not instrumented, and
  // ThreadSanitizer would take its critical sections for races.
  std::mutex mutex_;
  Handle agent_ = nullptr;
  Handle backend_ = nullptr;
  Handle notices_ = nullptr;
  std::map<std::string, Remote> remotes_;
  absl::Status shut_;  // why agent_ is null
};

}  // namespace weft::transport::nixl

#endif  // WEFT_TRANSPORT_NIXL_NIXL_AGENT_INTERNAL_H_
