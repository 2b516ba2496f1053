// The active side: one connected peer, and registered memory.
#ifndef WEFT_TRANSPORT_NIXL_NIXL_PEER_INTERNAL_H_
#define WEFT_TRANSPORT_NIXL_NIXL_PEER_INTERNAL_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "weft/base/deadline.h"
#include "weft/memory/buffer.h"
#include "weft/memory/device.h"
#include "weft/transport/device_copies.h"
#include "weft/transport/nixl/nixl_mail_internal.h"
#include "weft/transport/region_table.h"
#include "weft/transport/transport.h"

namespace weft::transport::nixl {

class NixlRegion final : public Region {
 public:
  // `device` is that of the memory, memory::kHostMemory for the host's.
  static absl::StatusOr<std::unique_ptr<Region>> Make(
      std::shared_ptr<Agent> agent, std::shared_ptr<RegionTable> table,
      uint64_t instance, absl::Span<std::byte> memory,
      const memory::Buffer* buffer, int device);
  ~NixlRegion() override;
  absl::Span<std::byte> memory() const override { return region_.memory; }
  const std::string& key() const override { return key_; }
  const Agent* agent() const { return agent_.get(); }
  uint64_t generation() const { return region_.generation; }
  const Memory& described() const { return memory_; }
  int device() const { return region_.device; }

 private:
  NixlRegion(std::shared_ptr<Agent> agent, std::shared_ptr<RegionTable> table)
      : agent_(std::move(agent)), table_(std::move(table)) {}

  const std::shared_ptr<Agent> agent_;
  const std::shared_ptr<RegionTable> table_;
  RegisteredRegion region_;
  Memory memory_;
  std::string key_;
};

class NixlRemoteRegion final : public RemoteRegion {
 public:
  int64_t size_bytes() const override {
    return static_cast<int64_t>(memory.bytes);
  }
  std::byte* mapped() const override { return nullptr; }
  bool on_peer_device() const override { return on_device; }

  bool on_device = false;
  uint64_t slot = 0;
  uint64_t generation = 0;
  Memory memory;
};

// Where a peer lives and how it is reached.
struct Address {
  uint64_t instance = 0;
  std::string agent = {};
  std::string connection = {};
  std::string host = {};
  pid_t process = 0;

  std::string Encode() const;
  static absl::StatusOr<Address> Decode(std::string_view sealed);
};

struct PeerOptions {
  std::chrono::nanoseconds import_timeout;
  memory::DeviceDriver* driver;  // null: no memory of GPUs
  int device;                    // the GPU of this process, or kHostMemory
};

class NixlPeer final : public Peer {
 public:
  // `host` is this process's.
  NixlPeer(std::shared_ptr<Agent> agent, std::shared_ptr<Mail> mail,
           Address address, std::string label, const PeerOptions& options);
  // Once, first of all.
  absl::Status Connect(const std::string& host, base::Deadline deadline);
  ~NixlPeer() override;

  const std::string& label() const override { return label_; }
  absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(
      std::string_view key) override;
  absl::Status Get(const RemoteRegion& remote, int64_t remote_offset_bytes,
                   absl::Span<std::byte> local, const Region* local_region,
                   OpTag tag) override;
  absl::Status Put(const RemoteRegion& remote, int64_t remote_offset_bytes,
                   absl::Span<const std::byte> local,
                   const Region* local_region, OpTag tag) override;
  absl::Status Gather(const RemoteRegion& remote, const StridedPieces& pieces,
                      absl::Span<std::byte> local, const Region* local_region,
                      OpTag tag) override;
  int Poll(std::vector<Completion>& completions) override;
  int64_t in_flight() const override {
    return static_cast<int64_t>(ops_.size() + done_.size());
  }
  absl::Status Flush(base::Deadline deadline) override;
  absl::Status Health() override;

 private:
  // Memory between a GPU's and the host's, of the far end's kind.
  struct Between {
    std::unique_ptr<memory::Buffer> host;
    std::unique_ptr<memory::DeviceBuffer> gpu;
    std::byte* data = nullptr;
    std::byte* read_into = nullptr;  // the caller's; null for a write
    int64_t bytes = 0;
    int copied_by = memory::kHostMemory;  // the GPU
  };
  // Local memory that NIXL may use: of a region, or registered for one
  // operation (then `generation` is 0).
  struct Local {
    Memory memory = {};
    uint64_t generation = 0;
    std::unique_ptr<Between> between = nullptr;
  };
  // What NIXL sees of it.
  struct Near {
    Memory memory;
    uint64_t generation = 0;
  };
  // A ring of the owner.
  struct Ring {
    Memory memory;
    uint64_t chunk_bytes = 0;
  };
  struct Op {
    OpTag tag = 0;
    bool far_on_device = false;
    Local local = {};
    int64_t transfers = 0;      // under way
    int64_t awaited_bytes = 0;  // of a Gather, not yet read
    absl::Status status = absl::OkStatus();
  };
  // What moves from where to where: operation; registration, address and
  // device of both; bytes. The same one again is the same request of NIXL.
  using Route =
      std::tuple<Operation, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t>;
  struct Transfer {
    Handle request = nullptr;  // null: done by CopyHere
    Route route = {};
    bool keep = false;  // the request may be posted again
    uint64_t op = 0;
    std::optional<uint64_t> chunk = {};  // of the ring that it reads
  };

  // `local` as NIXL may use it against memory of the far kind.
  absl::StatusOr<Local> FindLocal(Operation operation, bool far_on_device,
                                  absl::Span<const std::byte> local,
                                  const Region* local_region);
  absl::StatusOr<std::unique_ptr<Between>> MakeBetween(
      Operation operation, bool far_on_device, int local_device,
      absl::Span<const std::byte> local);
  // Reads some bytes of a GPU's memory: whether a wire does it.
  absl::Status ProbeDevice(const NixlRemoteRegion& region,
                           base::Deadline deadline);
  absl::Status PostOne(Operation operation, const RemoteRegion& remote,
                       int64_t remote_offset_bytes,
                       absl::Span<const std::byte> local,
                       const Region* local_region, OpTag tag);
  // A request for this route, prepared now or before, and posted.
  absl::Status Start(Transfer transfer, const Near& local, const Memory& remote,
                     uint64_t remote_generation, Operation operation);
  // Between GPUs of this process NIXL has no wire: the copy, at once.
  absl::Status CopyHere(Operation operation, const Memory& local,
                        const Memory& remote);
  void DropKept();
  absl::StatusOr<Message> Ask(Message request, base::Deadline deadline);
  // Both true when something happened.
  bool TakeMessages();
  bool CheckTransfers();
  void TakeChunk(const Message& chunk);
  void NoteTaken(bool on_device, uint64_t chunk);
  Ring& RingOn(bool on_device) { return on_device ? device_ring_ : ring_; }
  void Finish(uint64_t id);
  void FinishIfDone(uint64_t id);
  void LookAfterProcess();
  void NoteLost(std::string_view why);
  // Waits until no transfer is under way; false when that takes too long.
  bool EndTransfers();
  // Once the peer is lost: fails what is in flight.
  void Settle();

  const std::shared_ptr<Agent> agent_;
  const std::shared_ptr<Mail> mail_;
  const Address address_;
  const std::string label_;
  const PeerOptions options_;
  DeviceCopier copier_;
  const uint64_t client_id_;
  bool acquired_ = false;
  int process_fd_ = -1;  // of a peer on this host
  bool is_own_process_ = false;
  base::Deadline next_look_ = base::Deadline::After({});
  base::Deadline next_ping_ = base::Deadline::After({});
  uint64_t last_id_ = 0;
  std::unordered_map<uint64_t, Op> ops_;
  std::vector<Transfer> transfers_;
  std::multimap<Route, Handle> kept_;  // idle requests
  Ring ring_;
  Ring device_ring_;
  std::unordered_map<uint64_t, Message> answers_;
  uint64_t awaited_id_ = 0;  // the one answer that is of interest
  std::vector<Completion> done_;
  absl::Status death_;
};

}  // namespace weft::transport::nixl

#endif  // WEFT_TRANSPORT_NIXL_NIXL_PEER_INTERNAL_H_
