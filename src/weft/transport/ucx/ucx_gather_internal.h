// The target's half of Gather: packs strided pieces and sends them.
#ifndef WEFT_TRANSPORT_UCX_UCX_GATHER_INTERNAL_H_
#define WEFT_TRANSPORT_UCX_UCX_GATHER_INTERNAL_H_

#include <ucp/api/ucp.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "weft/transport/region_table.h"
#include "weft/transport/transport.h"
#include "weft/transport/ucx/ucx_worker_internal.h"

namespace weft::transport::ucx {

// A gather is cut into chunks of this many packed bytes, so that packing here,
// the wire and the receiver's work overlap.
inline constexpr int64_t kLargeChunkBytes = int64_t{512} << 10;
inline constexpr int64_t kSmallChunkBytes = int64_t{64} << 10;
// Chunks that one client may have under way: one that stopped reading holds
// its own staging (5 MiB) and nobody else's.
inline constexpr int kLargeChunks = 8;
inline constexpr int kSmallChunks = 16;
// Gathers that one client may queue.
inline constexpr size_t kMaxQueuedGathers = 65536;

struct GatherJob {
  uint64_t id = 0;
  uint64_t slot = 0;
  uint64_t generation = 0;
  StridedPieces pieces = {};
  int64_t sent_bytes = 0;
};

// The gathers of one client. Belongs to the serving thread. Must outlive the
// worker's requests.
class GatherSender {
 public:
  explicit GatherSender(const RegionTable& regions);
  GatherSender(const GatherSender&) = delete;
  GatherSender& operator=(const GatherSender&) = delete;

  // kNotFound, kOutOfRange or kResourceExhausted: the job is not taken.
  absl::Status Add(GatherJob job);

  struct Step {
    bool moved = false;   // something was packed and sent
    bool failed = false;  // the gather `id` ended with `status`
    uint64_t id = 0;
    absl::Status status = absl::OkStatus();
  };
  // Packs and sends the next chunk, if one is due and staging is free.
  Step SendNext(ucp_ep_h endpoint);

  void DropAll() { jobs_.clear(); }
  int chunks_under_way() const { return chunks_under_way_; }

 private:
  struct Chunk {
    GatherSender* sender = nullptr;
    std::vector<Chunk*>* home = nullptr;  // the free list it goes back to
    std::string header;
    std::unique_ptr<std::byte[]> bytes;
  };

  Chunk* TakeChunk(int64_t bytes_left);
  void ReturnChunk(Chunk* chunk);
  absl::Status Pack(const GatherJob& job, int64_t bytes, Chunk& chunk) const;
  absl::Status Post(ucp_ep_h endpoint, int64_t bytes, Chunk* chunk);

  const RegionTable& regions_;
  std::deque<GatherJob> jobs_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::vector<Chunk*> free_large_;
  std::vector<Chunk*> free_small_;
  int num_large_ = 0;
  int num_small_ = 0;
  int chunks_under_way_ = 0;
};

}  // namespace weft::transport::ucx

#endif  // WEFT_TRANSPORT_UCX_UCX_GATHER_INTERNAL_H_
