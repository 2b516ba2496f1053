// The active side: one connected peer, with a UCX worker of its own.
#ifndef WEFT_TRANSPORT_UCX_UCX_PEER_INTERNAL_H_
#define WEFT_TRANSPORT_UCX_UCX_PEER_INTERNAL_H_

#include <ucp/api/ucp.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "weft/transport/device_copies.h"
#include "weft/transport/region_table.h"
#include "weft/transport/transport.h"
#include "weft/transport/ucx/ucx_wire.h"
#include "weft/transport/ucx/ucx_worker_internal.h"

namespace weft::transport::ucx {

// Memory registered with UCX.
class UcxRegion final : public Region {
 public:
  // `device` holds the memory. `one_sided`: OK when UCX may reach it there,
  // else why peers are sent its bytes through memory of the host.
  static absl::StatusOr<std::unique_ptr<Region>> Make(
      std::shared_ptr<Context> context, std::shared_ptr<RegionTable> table,
      uint64_t instance, absl::Span<std::byte> memory,
      const memory::Buffer* buffer, int device, const absl::Status& one_sided);
  ~UcxRegion() override;
  absl::Span<std::byte> memory() const override { return region_.memory; }
  const std::string& key() const override { return key_; }
  const Context* context() const { return context_.get(); }
  // Null for an empty region, and for memory of a GPU that UCX does not reach.
  ucp_mem_h handle() const { return handle_; }
  int device() const { return region_.device; }

 private:
  UcxRegion(std::shared_ptr<Context> context,
            std::shared_ptr<RegionTable> table)
      : context_(std::move(context)), table_(std::move(table)) {}
  // Maps the memory; returns UCX's remote key.
  absl::StatusOr<std::string> Map(absl::Span<std::byte> memory, bool on_device);

  const std::shared_ptr<Context> context_;
  const std::shared_ptr<RegionTable> table_;
  ucp_mem_h handle_ = nullptr;
  RegisteredRegion region_;
  std::string key_;
};

class UcxRemoteRegion final : public RemoteRegion {
 public:
  ~UcxRemoteRegion() override {
    if (rkey != nullptr) ucp_rkey_destroy(rkey);
  }
  int64_t size_bytes() const override { return size; }
  std::byte* mapped() const override { return nullptr; }
  bool on_peer_device() const override { return on_device; }
  std::string_view through_host() const override { return why_through_host; }
  // Whether UCX may read and write it without the owner.
  bool one_sided() const { return rkey != nullptr && why_through_host.empty(); }

  int64_t size = 0;
  bool on_device = false;
  std::string why_through_host;
  uint64_t slot = 0;
  uint64_t generation = 0;
  uint64_t address = 0;  // in the peer
  // Null for an empty region, and for one whose bytes go through the host.
  ucp_rkey_h rkey = nullptr;
};

struct PeerOptions {
  std::chrono::nanoseconds import_timeout;
  bool emulated_rma;
  // Null: no memory of GPUs. `device`: the one of this process.
  memory::DeviceDriver* driver = nullptr;
  int device = memory::kHostMemory;
  // Not OK: why UCX does not reach memory of GPUs here.
  absl::Status device_one_sided = absl::OkStatus();
};

class UcxPeer final : public Peer {
 public:
  // `instance` comes from the peer's address.
  static absl::StatusOr<std::unique_ptr<UcxPeer>> Make(
      std::shared_ptr<Context> context, uint64_t instance, std::string label,
      const PeerOptions& options);
  // Once, first of all. After kDeadlineExceeded keep the peer until
  // heard_or_lost(): its owner may still answer, and a UCX that answers a
  // worker which is gone crashes (seen with 1.22 over shared memory).
  absl::Status Connect(std::string_view ucx_address, base::Deadline deadline);
  bool heard_or_lost() const { return heard_ || !death_.ok(); }
  ~UcxPeer() override;

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
    return live_ops_ + static_cast<int64_t>(done_.size());
  }
  absl::Status Flush(base::Deadline deadline) override;
  absl::Status Health() override;

  // "posix,cma,tcp"; see DescribeLanes.
  const std::string& lanes() const { return lanes_; }

 private:
  // One posted operation. UCX keeps a pointer until its callback came, so an
  // Op is reused only when nothing of UCX refers to it.
  struct Op {
    UcxPeer* peer = nullptr;
    OpTag tag = 0;
    bool live = false;                 // its completion is still owed
    int ucx_requests = 0;              // callbacks that UCX still owes
    bool awaits_flush = false;         // one-sided Put
    uint64_t id = 0;                   // in ops_by_id_ while not 0
    int64_t answers_awaited = 0;       // Put by messages
    absl::Span<std::byte> local = {};  // Get and Gather by messages
    int local_device = memory::kHostMemory;
    size_t received_bytes = 0;
    absl::Status status = absl::OkStatus();
  };
  // One message of a Put; UCX reads the header until it is sent.
  struct PutMessage {
    Op* op = nullptr;
    std::string header;
    std::vector<std::byte> staged;  // of memory of a GPU
  };

  UcxPeer(std::shared_ptr<Context> context, std::string label,
          uint64_t instance, const PeerOptions& options);

  static ucs_status_t OnReply(void* arg, const void* header,
                              size_t header_bytes, void* data,
                              size_t data_bytes,
                              const ucp_am_recv_param_t* param);
  static ucs_status_t OnData(void* arg, const void* header, size_t header_bytes,
                             void* data, size_t data_bytes,
                             const ucp_am_recv_param_t* param);
  static void OnLost(void* arg, ucp_ep_h endpoint, ucs_status_t status);
  static void OnTransferred(void* request, ucs_status_t status,
                            void* user_data);
  static void OnFlushed(void* request, ucs_status_t status, void* user_data);

  absl::Status SendRequest(Request request);
  // Whether UCX reads this region of a GPU, or its bytes go through the host.
  absl::Status ChooseDeviceWay(UcxRemoteRegion& region);
  // Reads some bytes of a GPU's memory by UCX: whether a wire does it.
  absl::Status ProbeDevice(const UcxRemoteRegion& region);
  int DeviceOfLocal(const std::byte* local, const Region* local_region) const;
  // Whether UCX moves bytes between the two without the owner.
  bool OneSided(const UcxRemoteRegion& region, int local_device) const;
  absl::StatusOr<Reply> Ask(Request request, base::Deadline deadline);

  Op& NewOp(OpTag tag);
  // Posts what the owner packs and sends back; a Get is its simplest case.
  absl::Status PostGather(const UcxRemoteRegion& region,
                          const StridedPieces& pieces,
                          absl::Span<std::byte> local, int local_device,
                          OpTag tag);
  absl::Status PostPut(const UcxRemoteRegion& region,
                       int64_t remote_offset_bytes,
                       absl::Span<const std::byte> local, int local_device,
                       OpTag tag);
  // Params of a Get or Put of `op`.
  ucp_request_param_t TransferParams(Op& op, const Region* local_region) const;
  absl::Status Posted(Op& op, ucs_status_ptr_t request);
  void NoteTransfer(Op& op, ucs_status_t status);
  void NoteReceived(Op& op, size_t bytes);
  // Delivers the completion if nothing more is awaited.
  void FinishIfDone(Op& op);
  void Finish(Op& op, absl::Status status);
  void StartFlush();
  void NoteFlushed(ucs_status_t status);
  void NoteLost(std::string_view why);
  // Once the peer is lost: closes the endpoint and fails what is in flight.
  void Settle();

  const std::shared_ptr<Context> context_;
  const std::string label_;
  const uint64_t instance_;
  const PeerOptions options_;
  bool heard_ = false;      // the owner has answered something
  bool one_sided_ = false;  // Get and Put by UCX, else by messages
  DeviceCopier copier_;
  std::unique_ptr<memory::DeviceBuffer> probe_;  // what ProbeDevice reads into
  // A Put by messages is cut into parts of this size, each sent whole.
  size_t put_message_bytes_ = 0;
  const uint64_t client_id_;
  std::string lanes_;
  uint64_t last_id_ = 0;

  std::deque<Op> ops_;  // stable addresses
  std::vector<Op*> free_ops_;
  std::unordered_map<uint64_t, Op*> ops_by_id_;
  std::vector<Op*> unflushed_puts_;
  std::vector<Op*> flushing_puts_;
  bool flushing_ = false;
  int64_t live_ops_ = 0;
  std::vector<Completion> done_;
  std::unordered_map<uint64_t, Reply> answers_;
  uint64_t awaited_id_ = 0;  // the one answer that is of interest
  absl::Status death_;

  // After what callbacks touch: it is destroyed first.
  std::unique_ptr<Worker> worker_;
  ucp_ep_h endpoint_ = nullptr;  // null once closed
};

}  // namespace weft::transport::ucx

#endif  // WEFT_TRANSPORT_UCX_UCX_PEER_INTERNAL_H_
