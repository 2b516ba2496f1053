#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/ucx/ucx_gather_internal.h"
#include "weft/transport/ucx/ucx_wire.h"

namespace weft::transport::ucx {

GatherSender::GatherSender(const RegionTable& regions, DeviceCopier& copier,
                           int64_t chunk_bytes)
    : regions_(regions), copier_(copier), chunk_bytes_(chunk_bytes) {}

absl::Status GatherSender::Add(GatherJob job) {
  if (jobs_.size() >= kMaxQueuedGathers) {
    return absl::ResourceExhaustedError(
        absl::StrCat("more than ", kMaxQueuedGathers,
                     " gathers are queued; poll before posting more"));
  }
  WEFT_RETURN_IF_ERROR(regions_.Visit(
      job.slot, job.generation, [&](const RegisteredRegion& region) {
        return CheckPieces("this rank", job.pieces,
                           static_cast<int64_t>(region.memory.size()),
                           job.pieces.packed_bytes());
      }));
  if (job.pieces.packed_bytes() == 0) {
    return absl::InvalidArgumentError("a gather of no bytes needs no message");
  }
  jobs_.push_back(std::move(job));
  return absl::OkStatus();
}

GatherSender::Chunk* GatherSender::TakeChunk() {
  if (free_chunks_.empty()) {
    const auto count = static_cast<int64_t>(chunks_.size());
    if ((count + 1) * chunk_bytes_ > kGatherBytesUnderWay) return nullptr;
    auto chunk = std::make_unique<Chunk>();
    chunk->sender = this;
    free_chunks_.push_back(chunk.get());
    chunks_.push_back(std::move(chunk));
  }
  Chunk* taken = free_chunks_.back();
  free_chunks_.pop_back();
  return taken;
}

void GatherSender::ReturnChunk(Chunk* chunk) { free_chunks_.push_back(chunk); }

size_t GatherSender::PackPart(void* chunk_pointer, size_t offset, void* to,
                              size_t bytes) {
  auto& chunk = *static_cast<Chunk*>(chunk_pointer);
  auto* out = static_cast<std::byte*>(to);
  const auto payload_bytes = static_cast<size_t>(chunk.bytes);
  const size_t count =
      offset < payload_bytes ? std::min(bytes, payload_bytes - offset) : 0;
  if (count > 0 && !chunk.region_is_gone) {
    const absl::Status packed = chunk.sender->regions_.Visit(
        chunk.job.slot, chunk.job.generation,
        [&](const RegisteredRegion& region) {
          const int64_t packed_offset_bytes =
              chunk.job.sent_bytes + static_cast<int64_t>(offset);
          if (region.device != memory::kHostMemory) {
            return chunk.sender->copier_.Pack(
                region.device, region.memory.data(), chunk.job.pieces,
                packed_offset_bytes, {out, count});
          }
          PackRange(region.memory.data(), chunk.job.pieces, packed_offset_bytes,
                    {out, count});
          return absl::OkStatus();
        });
    chunk.region_is_gone = !packed.ok();
  }
  if (chunk.region_is_gone) std::memset(out, 0, count);
  if (count == bytes) return count;
  // The last byte: UCX cannot be told that packing failed, the peer can.
  out[count] = chunk.region_is_gone ? kRegionIsGone : kPayloadIsGood;
  return count + 1;
}

ucp_datatype_t GatherSender::PackingType() {
  static const ucp_datatype_t type = [] {
    static ucp_generic_dt_ops_t operations = {};
    operations.start_pack = [](void*, const void* buffer, size_t) {
      return const_cast<void*>(buffer);
    };
    operations.packed_size = [](void* chunk) {
      return static_cast<size_t>(static_cast<Chunk*>(chunk)->bytes) + 1;
    };
    operations.pack = &PackPart;
    operations.finish = [](void*) {};
    ucp_datatype_t made = 0;
    // Fails for want of memory only.
    if (ucp_dt_create_generic(&operations, nullptr, &made) != UCS_OK) made = 0;
    return made;
  }();
  return type;
}

absl::Status GatherSender::Post(ucp_ep_h endpoint, Chunk* chunk) {
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_DATATYPE;
  // Eager: an endpoint that is closed with a rendezvous under way never gives
  // its request back (UCX 1.13) or frees it twice (1.22).
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  params.datatype = PackingType();
  params.user_data = chunk;
  params.cb.send = [](void* request, ucs_status_t, void* user_data) {
    // A failed send shows at the endpoint; the chunk is free in any case.
    auto* sent = static_cast<Chunk*>(user_data);
    sent->sender->ReturnChunk(sent);
    ucp_request_free(request);
  };
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(endpoint, kDataId, chunk->header.data(),
                      chunk->header.size(), chunk, 1, &params);
  if (!UCS_PTR_IS_PTR(request)) ReturnChunk(chunk);
  return ToStatus(UCS_PTR_IS_PTR(request) ? UCS_OK : UCS_PTR_STATUS(request),
                  "sending gathered bytes");
}

GatherSender::Step GatherSender::SendNext(ucp_ep_h endpoint) {
  if (jobs_.empty()) return {};
  GatherJob& job = jobs_.front();
  Chunk* chunk = TakeChunk();
  if (chunk == nullptr) return {};
  const int64_t left = job.pieces.packed_bytes() - job.sent_bytes;
  chunk->job = job;
  chunk->bytes = std::min(left, chunk_bytes_);
  chunk->region_is_gone = false;
  chunk->header =
      Encode(DataHeader{.id = job.id, .packed_offset_bytes = job.sent_bytes});
  const int64_t bytes = chunk->bytes;
  Step step{.moved = true, .id = job.id};
  step.status = Post(endpoint, chunk);
  job.sent_bytes += bytes;
  step.failed = !step.status.ok();
  if (step.failed || bytes == left) jobs_.pop_front();
  return step;
}

}  // namespace weft::transport::ucx
