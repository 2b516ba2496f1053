#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/ucx/ucx_gather_internal.h"
#include "weft/transport/ucx/ucx_wire.h"

namespace weft::transport::ucx {

GatherSender::GatherSender(const RegionTable& regions, int64_t chunk_bytes)
    : regions_(regions), chunk_bytes_(chunk_bytes) {}

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
    if ((count + 1) * chunk_bytes_ > kGatherStagingBytes) return nullptr;
    auto chunk = std::make_unique<Chunk>();
    chunk->sender = this;
    chunk->bytes = std::make_unique_for_overwrite<std::byte[]>(
        static_cast<size_t>(chunk_bytes_));
    free_chunks_.push_back(chunk.get());
    chunks_.push_back(std::move(chunk));
  }
  Chunk* taken = free_chunks_.back();
  free_chunks_.pop_back();
  return taken;
}

void GatherSender::ReturnChunk(Chunk* chunk) { free_chunks_.push_back(chunk); }

absl::Status GatherSender::Pack(const GatherJob& job, int64_t bytes,
                                Chunk& chunk) const {
  return regions_.Visit(
      job.slot, job.generation, [&](const RegisteredRegion& region) {
        PackRange(region.memory.data(), job.pieces, job.sent_bytes,
                  {chunk.bytes.get(), static_cast<size_t>(bytes)});
        return absl::OkStatus();
      });
}

absl::Status GatherSender::Post(ucp_ep_h endpoint, int64_t bytes,
                                Chunk* chunk) {
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA;
  // Eager: an endpoint that is closed with a rendezvous under way never gives
  // its request back (UCX 1.13) or frees it twice (1.22).
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  params.user_data = chunk;
  params.cb.send = [](void* request, ucs_status_t, void* user_data) {
    // A failed send shows at the endpoint; the chunk is free in any case.
    auto* sent = static_cast<Chunk*>(user_data);
    sent->sender->ReturnChunk(sent);
    ucp_request_free(request);
  };
  const ucs_status_ptr_t request = ucp_am_send_nbx(
      endpoint, kDataId, chunk->header.data(), chunk->header.size(),
      chunk->bytes.get(), static_cast<size_t>(bytes), &params);
  if (!UCS_PTR_IS_PTR(request)) ReturnChunk(chunk);
  return ToStatus(UCS_PTR_IS_PTR(request) ? UCS_OK : UCS_PTR_STATUS(request),
                  "sending gathered bytes");
}

GatherSender::Step GatherSender::SendNext(ucp_ep_h endpoint) {
  if (jobs_.empty()) return {};
  GatherJob& job = jobs_.front();
  const int64_t left = job.pieces.packed_bytes() - job.sent_bytes;
  Chunk* chunk = TakeChunk();
  if (chunk == nullptr) return {};
  const int64_t bytes = std::min(left, chunk_bytes_);
  Step step{.moved = true, .id = job.id};
  step.status = Pack(job, bytes, *chunk);
  if (step.status.ok()) {
    chunk->header =
        Encode(DataHeader{.id = job.id, .packed_offset_bytes = job.sent_bytes});
    step.status = Post(endpoint, bytes, chunk);
  } else {
    ReturnChunk(chunk);
  }
  job.sent_bytes += bytes;
  step.failed = !step.status.ok();
  if (step.failed || bytes == left) jobs_.pop_front();
  return step;
}

}  // namespace weft::transport::ucx
