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
#include "weft/transport/device_copies.h"
#include "weft/transport/region_table.h"
#include "weft/transport/transport.h"
#include "weft/transport/ucx/ucx_worker_internal.h"

namespace weft::transport::ucx {

// Bytes that one client may have under way: one that stopped reading holds its
// own messages and nobody else's.
inline constexpr int64_t kGatherBytesUnderWay = int64_t{5} << 20;
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
  // A gather is cut into chunks of `chunk_bytes` packed bytes, so that packing
  // here, the wire and the receiver's work overlap. `copier` packs what lies in
  // memory of GPUs.
  GatherSender(const RegionTable& regions, DeviceCopier& copier,
               int64_t chunk_bytes);
  GatherSender(const GatherSender&) = delete;
  GatherSender& operator=(const GatherSender&) = delete;

  // kNotFound, kOutOfRange or kResourceExhausted: the job is not taken.
  absl::Status Add(GatherJob job);

  struct Step {
    bool moved = false;   // a message was sent
    bool failed = false;  // the gather `id` ended with `status`
    uint64_t id = 0;
    absl::Status status = absl::OkStatus();
  };
  // Sends the next message, if one is due and not too much is under way.
  Step SendNext(ucp_ep_h endpoint);

  void DropAll() { jobs_.clear(); }
  size_t chunks_under_way() const {
    return chunks_.size() - free_chunks_.size();
  }

 private:
  // One message. UCX packs it straight from the region into its segment when
  // it has one free (a copy less than through staging), which may be long after
  // the send: so each packing looks the region up again.
  struct Chunk {
    GatherSender* sender = nullptr;
    std::string header;
    GatherJob job;  // sent_bytes: where this message begins
    int64_t bytes = 0;
    bool region_is_gone = false;  // found while packing
  };

  static ucp_datatype_t PackingType();
  static size_t PackPart(void* chunk, size_t offset, void* to, size_t bytes);
  Chunk* TakeChunk();
  void ReturnChunk(Chunk* chunk);
  absl::Status Post(ucp_ep_h endpoint, Chunk* chunk);

  const RegionTable& regions_;
  DeviceCopier& copier_;
  const int64_t chunk_bytes_;
  std::deque<GatherJob> jobs_;
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::vector<Chunk*> free_chunks_;
};

}  // namespace weft::transport::ucx

#endif  // WEFT_TRANSPORT_UCX_UCX_GATHER_INTERNAL_H_
