// The passive side: one thread that answers clients and packs their gathers.
#ifndef WEFT_TRANSPORT_NIXL_NIXL_SERVER_INTERNAL_H_
#define WEFT_TRANSPORT_NIXL_NIXL_SERVER_INTERNAL_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/memory/buffer.h"
#include "weft/memory/device.h"
#include "weft/transport/device_copies.h"
#include "weft/transport/nixl/nixl_mail_internal.h"
#include "weft/transport/region_table.h"

namespace weft::transport::nixl {

// Chunks of a client's ring, and their size: while one is read the others are
// packed.
inline constexpr int64_t kRingChunks = 4;
inline constexpr int64_t kRingChunkBytes = int64_t{512} << 10;
// On a GPU: a chunk costs some 40 us of calls, and 20 us on NVLink.
inline constexpr int64_t kDeviceRingChunkBytes = int64_t{8} << 20;

// Reads and writes are NIXL's own work; what needs this thread are imports and
// gathers, which it checks against the regions. Destroying the server tells
// its clients so.
class Server {
 public:
  static std::unique_ptr<Server> Start(
      std::shared_ptr<Agent> agent, std::shared_ptr<Mail> mail,
      uint64_t instance, std::shared_ptr<const RegionTable> regions,
      memory::DeviceDriver* driver);
  ~Server();

 private:
  // Registered memory that one client at a time reads gathered bytes from, of
  // the host or of a GPU.
  struct Ring {
    std::unique_ptr<memory::Buffer> buffer;
    std::unique_ptr<memory::DeviceBuffer> device_buffer;
    absl::Span<std::byte> span;
    int64_t chunk_bytes = 0;
    Memory memory;
    std::string metadata;
    int device() const {
      return device_buffer == nullptr ? memory::kHostMemory
                                      : device_buffer->device();
    }
  };
  struct ClientRing {
    std::unique_ptr<Ring> ring;
    std::vector<uint64_t> free_chunks;
  };
  struct Client {
    std::string agent;
    bool lost = false;
    std::deque<Message> gathers;
    int64_t packed_bytes = 0;  // of the first gather
    ClientRing host;
    ClientRing device;
    ClientRing& RingOn(bool on_device) { return on_device ? device : host; }
  };

  Server(std::shared_ptr<Agent> agent, std::shared_ptr<Mail> mail,
         uint64_t instance, std::shared_ptr<const RegionTable> regions,
         memory::DeviceDriver* driver)
      : agent_(std::move(agent)),
        mail_(std::move(mail)),
        instance_(instance),
        regions_(std::move(regions)),
        driver_(driver),
        copier_(driver) {}

  void Serve();
  void Handle(const Message& message);
  void Greet(const Message& hello);
  void Answer(uint64_t id, Client& client, const Message& request,
              absl::Status status, int64_t size_bytes = 0);
  void Send(Client& client, const Message& message);
  // True when something moved.
  bool StepClients();
  bool PackNext(uint64_t id, Client& client);
  // Packs into one chunk of the ring.
  absl::Status Pack(const RegisteredRegion& region, const Message& gather,
                    int64_t packed_offset_bytes, const Ring& ring,
                    const Message& chunk);
  absl::Status GiveRing(uint64_t id, Client& client, int device);
  absl::StatusOr<std::unique_ptr<Ring>> MakeRing(int device);
  // Ends everything with a client that is gone.
  void Forget(Client& client);

  const std::shared_ptr<Agent> agent_;
  const std::shared_ptr<Mail> mail_;
  const uint64_t instance_;
  const std::shared_ptr<const RegionTable> regions_;
  memory::DeviceDriver* const driver_;  // null: no memory of GPUs
  DeviceCopier copier_;
  std::atomic<bool> stop_ = false;
  std::map<uint64_t, Client> clients_;
  // Of clients that left; kept, since a reader that was killed may have asked
  // for bytes that are still on their way.
  std::vector<std::unique_ptr<Ring>> idle_rings_;
  base::Deadline next_ping_ = base::Deadline::Infinite();
  std::thread thread_;
};

}  // namespace weft::transport::nixl

#endif  // WEFT_TRANSPORT_NIXL_NIXL_SERVER_INTERNAL_H_
