// The active side: one connected peer.
#ifndef WEFT_TRANSPORT_SHM_SHM_PEER_H_
#define WEFT_TRANSPORT_SHM_SHM_PEER_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "weft/memory/shared_mapping.h"
#include "weft/transport/shm/shm_socket.h"
#include "weft/transport/transport.h"

namespace weft::transport::shm {

inline constexpr std::string_view kLeaf = "shm";

class ShmRemoteRegion final : public RemoteRegion {
 public:
  int64_t size_bytes() const override { return size; }
  std::byte* mapped() const override {
    return mapping == nullptr ? nullptr
                              : mapping->data() + mapping_offset_bytes;
  }

  int64_t size = 0;
  uint64_t slot = 0;
  uint64_t generation = 0;
  uint64_t address = 0;  // in the peer
  std::shared_ptr<memory::SharedMapping> mapping;
  int64_t mapping_offset_bytes = 0;
};

class ShmPeer final : public Peer {
 public:
  // `socket_name` and `instance` come from the peer's address.
  static absl::StatusOr<std::unique_ptr<Peer>> Connect(
      const std::string& socket_name, uint64_t instance, std::string label,
      std::chrono::nanoseconds import_timeout, base::Deadline deadline);

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
    return static_cast<int64_t>(queued_.size() + done_.size());
  }
  absl::Status Flush(base::Deadline deadline) override;
  absl::Status Health() override;

 private:
  struct Transfer {
    OpTag tag = 0;
    bool is_put = false;
    const ShmRemoteRegion* remote = nullptr;
    StridedPieces pieces;
    std::byte* local = nullptr;
    int64_t bytes = 0;
    int64_t done_bytes = 0;
  };
  struct Batch;

  ShmPeer(Fd socket, std::string label, uint64_t instance,
          std::chrono::nanoseconds import_timeout);

  absl::StatusOr<Received> Ask(Request request, Answer& answer,
                               base::Deadline deadline);
  absl::StatusOr<std::shared_ptr<memory::SharedMapping>> MapOnce(int fd);
  absl::Status Post(Transfer transfer);
  // Moves about `budget_bytes` of what is queued.
  void RunSome(int64_t budget_bytes);
  // Both return the bytes moved.
  int64_t RunMapped(Transfer& transfer, int64_t budget_bytes);
  // Moves the foreign transfers at the head of the queue by one system call;
  // an error is the first one's.
  absl::StatusOr<int64_t> RunForeign(int64_t budget_bytes);
  // The same for the small pieces of one dense row, read with the gaps between
  // them; nullopt when the first transfer does not continue with such a row.
  std::optional<absl::StatusOr<int64_t>> RunDenseRow(int64_t budget_bytes);
  Batch CollectBatch(int64_t budget_bytes) const;
  absl::Status MeaningOf(int error) const;
  // kNotFound once the owner has freed the region.
  absl::Status CheckGeneration(const ShmRemoteRegion& remote) const;
  void FinishFirst(absl::Status status);

  Fd socket_;
  Fd pid_fd_;  // empty on kernels without pidfd_open
  const std::string label_;
  const uint64_t instance_;
  const std::chrono::nanoseconds import_timeout_;
  pid_t pid_ = 0;
  uint64_t last_request_ = 0;
  std::shared_ptr<memory::SharedMapping> generation_words_;
  // Mappings by the inode of their file, so that the regions of one buffer
  // share one.
  std::map<uint64_t, std::weak_ptr<memory::SharedMapping>> mappings_;
  std::deque<Transfer> queued_;
  std::vector<std::byte> row_;  // what RunDenseRow read
  std::vector<Completion> done_;
  absl::Status death_;  // not OK once the peer is known dead
};

}  // namespace weft::transport::shm

#endif  // WEFT_TRANSPORT_SHM_SHM_PEER_H_
