#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/region_key.h"
#include "weft/transport/ucx/ucx_peer_internal.h"

namespace weft::transport::ucx {
namespace {

// Progress steps that one Poll takes at most.
constexpr int kStepsPerPoll = 16;
constexpr int64_t kProbeBytes = 4096;
// Its completion is nobody else's.
constexpr OpTag kProbeTag = ~OpTag{0};

}  // namespace

UcxPeer::UcxPeer(std::shared_ptr<Context> context, std::string label,
                 uint64_t instance, const PeerOptions& options)
    : context_(std::move(context)),
      label_(std::move(label)),
      instance_(instance),
      options_(options),
      copier_(options.driver),
      client_id_(RandomId()) {}

absl::StatusOr<std::unique_ptr<UcxPeer>> UcxPeer::Make(
    std::shared_ptr<Context> context, uint64_t instance, std::string label,
    const PeerOptions& options) {
  std::unique_ptr<UcxPeer> peer(
      new UcxPeer(std::move(context), std::move(label), instance, options));
  WEFT_ASSIGN_OR_RETURN(peer->worker_, Worker::Make(peer->context_));
  WEFT_RETURN_IF_ERROR(
      peer->worker_->SetHandler(kReplyId, &OnReply, peer.get()));
  WEFT_RETURN_IF_ERROR(peer->worker_->SetHandler(kDataId, &OnData, peer.get()));
  return peer;
}

absl::Status UcxPeer::Connect(std::string_view ucx_address,
                              base::Deadline deadline) {
  absl::StatusOr<ucp_ep_h> endpoint =
      worker_->Connect(ucx_address, &OnLost, this);
  if (!endpoint.ok()) return base::Annotate(endpoint.status(), label_);
  endpoint_ = *endpoint;
  const absl::StatusOr<Reply> reply = Ask({.kind = Request::Kind::kHello,
                                           .instance = instance_,
                                           .reply_address = worker_->address()},
                                          deadline);
  if (!reply.ok()) return reply.status();
  WEFT_RETURN_IF_ERROR(base::Annotate(reply->status, label_));
  lanes_ = DescribeLanes(endpoint_);
  const Wire wire = FastestWire(lanes_);
  one_sided_ = options_.emulated_rma || wire == Wire::kRdma;
  put_message_bytes_ = static_cast<size_t>(MessageBytes(wire));
  return absl::OkStatus();
}

UcxPeer::~UcxPeer() {
  if (endpoint_ == nullptr) return;
  if (death_.ok() && live_ops_ == 0) {
    // So that the peer frees what it keeps for this one. It may be gone; its
    // own keepalive covers that.
    worker_
        ->Send(
            endpoint_, kRequestId,
            Encode(Request{.kind = Request::Kind::kBye, .client = client_id_}))
        .IgnoreError();
    worker_->PushOut(base::Deadline::After(kGoodbyeLimit));
  }
  worker_->CloseByForce(endpoint_);
}

void UcxPeer::OnLost(void* arg, ucp_ep_h, ucs_status_t status) {
  static_cast<UcxPeer*>(arg)->NoteLost(ucs_status_string(status));
}

void UcxPeer::NoteLost(std::string_view why) {
  if (!death_.ok()) return;
  death_ = absl::UnavailableError(
      absl::StrCat(label_, " is lost: ", std::string(why)));
}

void UcxPeer::Settle() {
  if (death_.ok() || endpoint_ == nullptr) return;
  // Closing ends UCX's interest in the local memory of every operation; only
  // then may their owners hear that they failed.
  worker_->CloseByForce(endpoint_);
  endpoint_ = nullptr;
  for (Op& op : ops_) {
    if (op.live) Finish(op, death_);
  }
  unflushed_puts_.clear();
  flushing_puts_.clear();
  ops_by_id_.clear();
}

ucs_status_t UcxPeer::OnReply(void* arg, const void*, size_t, void* data,
                              size_t data_bytes,
                              const ucp_am_recv_param_t* param) {
  auto& peer = *static_cast<UcxPeer*>(arg);
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;
  absl::StatusOr<Reply> reply =
      DecodeReply({static_cast<const char*>(data), data_bytes});
  if (!reply.ok()) {
    peer.NoteLost(std::string(reply.status().message()));
    return UCS_OK;
  }
  peer.heard_ = true;
  if (reply->kind == Reply::Kind::kBye) {
    peer.NoteLost("it closed its transport");
  } else if (const auto found = peer.ops_by_id_.find(reply->id);
             found != peer.ops_by_id_.end()) {
    // A Put is answered for each message; of the others only a failure is
    // told, success is the data itself.
    Op& op = *found->second;
    if (op.answers_awaited > 0) --op.answers_awaited;
    if (op.status.ok()) op.status = base::Annotate(reply->status, peer.label_);
    peer.FinishIfDone(op);
  } else if (reply->id == peer.awaited_id_) {
    peer.answers_.insert_or_assign(peer.awaited_id_, *std::move(reply));
  }
  return UCS_OK;
}

absl::Status UcxPeer::SendRequest(Request request) {
  request.client = client_id_;
  return base::Annotate(worker_->Send(endpoint_, kRequestId, Encode(request)),
                        label_);
}

absl::StatusOr<Reply> UcxPeer::Ask(Request request, base::Deadline deadline) {
  request.id = ++last_id_;
  awaited_id_ = request.id;
  WEFT_RETURN_IF_ERROR(SendRequest(std::move(request)));
  const bool done = worker_->ProgressUntil(
      [this] { return answers_.contains(awaited_id_) || !death_.ok(); },
      deadline);
  const auto answer = answers_.find(awaited_id_);
  if (answer != answers_.end()) {
    Reply reply = std::move(answer->second);
    answers_.clear();
    return reply;
  }
  awaited_id_ = 0;
  Settle();
  if (done) return death_;
  return absl::DeadlineExceededError(
      absl::StrCat("deadline passed while waiting for an answer of ", label_));
}

absl::StatusOr<std::unique_ptr<RemoteRegion>> UcxPeer::Import(
    std::string_view key) {
  WEFT_ASSIGN_OR_RETURN(const RegionKey decoded, DecodeKey(kLeaf, key));
  base::ByteReader native(decoded.native);
  auto region = std::make_unique<UcxRemoteRegion>();
  region->size = decoded.size_bytes;
  region->slot = decoded.slot;
  region->generation = decoded.generation;
  region->address = native.U64();
  const std::string rkey(native.Bytes());
  region->on_device = native.U8() != 0;
  region->why_through_host = std::string(native.Bytes());
  if (!native.Finish("key").ok() ||
      (rkey.empty() != (region->size == 0) && !region->on_device)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the region key of ", label_, " is malformed"));
  }
  WEFT_RETURN_IF_ERROR(Health());
  if (decoded.instance != instance_) {
    return absl::NotFoundError(
        absl::StrCat("the key was not made by ", label_));
  }
  WEFT_ASSIGN_OR_RETURN(const Reply reply,
                        Ask({.kind = Request::Kind::kImport,
                             .slot = decoded.slot,
                             .generation = decoded.generation},
                            base::Deadline::After(options_.import_timeout)));
  WEFT_RETURN_IF_ERROR(base::Annotate(reply.status, label_));
  if (reply.size_bytes != region->size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the key says ", region->size, " bytes, ", label_,
                     " has a region of ", reply.size_bytes));
  }
  if (!rkey.empty()) {
    const ucs_status_t status =
        ucp_ep_rkey_unpack(endpoint_, rkey.data(), &region->rkey);
    if (status != UCS_OK) {
      return ToStatus(status, absl::StrCat("reading a key of ", label_));
    }
  }
  if (region->on_device && region->size > 0) {
    WEFT_RETURN_IF_ERROR(ChooseDeviceWay(*region));
  }
  return region;
}

absl::Status UcxPeer::ChooseDeviceWay(UcxRemoteRegion& region) {
  absl::Status way = options_.device_one_sided;
  if (!region.why_through_host.empty()) {
    way = absl::UnimplementedError(
        absl::StrCat(label_, ": ", region.why_through_host));
  } else if (options_.device == memory::kHostMemory) {
    way = absl::UnimplementedError("this process uses no GPU");
  } else if (way.ok()) {
    way = ProbeDevice(region);
    WEFT_RETURN_IF_ERROR(Health());
    if (!way.ok()) {
      way = absl::UnavailableError(absl::StrCat(
          "ucx ", Context::Version(), " finds no wire to it from GPU ",
          options_.device, " (", std::string(way.message()),
          "): virtual memory, one process, or GPUs without peer access"));
    }
  }
  region.why_through_host = std::string(way.message());
  return absl::OkStatus();
}

absl::Status UcxPeer::ProbeDevice(const UcxRemoteRegion& region) {
  if (probe_ == nullptr) {
    WEFT_ASSIGN_OR_RETURN(
        probe_, memory::DeviceBuffer::Allocate(*options_.driver,
                                               options_.device, kProbeBytes));
  }
  const QuietUcx quiet;  // the status is what tells
  Op& op = NewOp(kProbeTag);
  const ucp_request_param_t params = TransferParams(op, nullptr);
  WEFT_RETURN_IF_ERROR(Posted(
      op, ucp_get_nbx(endpoint_, probe_->data(),
                      static_cast<size_t>(std::min(region.size, kProbeBytes)),
                      region.address, region.rkey, &params)));
  const bool done =
      worker_->ProgressUntil([&] { return !op.live || !death_.ok(); },
                             base::Deadline::After(options_.import_timeout));
  Settle();
  if (!done) {
    return absl::DeadlineExceededError(absl::StrCat(
        "deadline passed while reading memory of a GPU of ", label_));
  }
  absl::Status status = death_;
  std::erase_if(done_, [&](const Completion& completion) {
    if (completion.tag == kProbeTag) status = completion.status;
    return completion.tag == kProbeTag;
  });
  return status;
}

int UcxPeer::DeviceOfLocal(const std::byte* local,
                           const Region* local_region) const {
  if (options_.driver == nullptr) return memory::kHostMemory;
  const auto* region = dynamic_cast<const UcxRegion*>(local_region);
  return region != nullptr ? region->device() : copier_.DeviceOf(local);
}

bool UcxPeer::OneSided(const UcxRemoteRegion& region, int local_device) const {
  const bool local_on_device = local_device != memory::kHostMemory;
  if (region.on_device) return local_on_device && region.one_sided();
  return !local_on_device && one_sided_;
}

UcxPeer::Op& UcxPeer::NewOp(OpTag tag) {
  if (free_ops_.empty()) {
    ops_.emplace_back();
    free_ops_.push_back(&ops_.back());
  }
  Op& op = *free_ops_.back();
  free_ops_.pop_back();
  op = Op{.peer = this, .tag = tag, .live = true};
  ++live_ops_;
  return op;
}

void UcxPeer::Finish(Op& op, absl::Status status) {
  done_.push_back({op.tag, std::move(status)});
  op.live = false;
  --live_ops_;
  if (op.id != 0) ops_by_id_.erase(op.id);
  if (op.ucx_requests == 0) free_ops_.push_back(&op);
}

void UcxPeer::FinishIfDone(Op& op) {
  if (op.ucx_requests > 0) return;
  if (!op.live) {
    free_ops_.push_back(&op);  // it was given up before UCX let go of it
    return;
  }
  if (op.awaits_flush || op.answers_awaited > 0) return;
  if (op.status.ok() && op.received_bytes < op.local.size()) return;
  Finish(op, op.status);
}

ucp_request_param_t UcxPeer::TransferParams(Op& op,
                                            const Region* local_region) const {
  ucp_request_param_t params = {};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &OnTransferred;
  params.user_data = &op;
  const auto* region = dynamic_cast<const UcxRegion*>(local_region);
  if (region != nullptr && region->context() == context_.get() &&
      region->handle() != nullptr) {
    params.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
    params.memh = region->handle();
  }
  return params;
}

void UcxPeer::OnTransferred(void* request, ucs_status_t status,
                            void* user_data) {
  auto& op = *static_cast<Op*>(user_data);
  --op.ucx_requests;
  op.peer->NoteTransfer(op, status);
  ucp_request_free(request);
}

void UcxPeer::NoteTransfer(Op& op, ucs_status_t status) {
  // A failed put still waits for its flush, which then fails as well.
  if (op.status.ok()) op.status = ToStatus(status, label_);
  FinishIfDone(op);
}

absl::Status UcxPeer::Posted(Op& op, ucs_status_ptr_t request) {
  if (UCS_PTR_IS_ERR(request)) {
    op.live = false;
    --live_ops_;
    free_ops_.push_back(&op);
    return ToStatus(UCS_PTR_STATUS(request), label_);
  }
  if (op.awaits_flush) unflushed_puts_.push_back(&op);
  if (request != nullptr) {
    ++op.ucx_requests;
  } else {
    NoteTransfer(op, UCS_OK);
  }
  return absl::OkStatus();
}

absl::Status UcxPeer::Get(const RemoteRegion& remote,
                          int64_t remote_offset_bytes,
                          absl::Span<std::byte> local,
                          const Region* local_region, OpTag tag) {
  const auto& region = static_cast<const UcxRemoteRegion&>(remote);
  WEFT_RETURN_IF_ERROR(CheckRange(label_, remote_offset_bytes,
                                  static_cast<int64_t>(local.size()),
                                  region.size));
  WEFT_RETURN_IF_ERROR(death_);
  if (local.empty()) return Posted(NewOp(tag), nullptr);
  const int device = DeviceOfLocal(local.data(), local_region);
  if (!OneSided(region, device)) {
    return PostGather(region,
                      {.offset_bytes = remote_offset_bytes,
                       .piece_bytes = static_cast<int64_t>(local.size())},
                      local, device, tag);
  }
  Op& op = NewOp(tag);
  const ucp_request_param_t params = TransferParams(op, local_region);
  return Posted(op, ucp_get_nbx(endpoint_, local.data(), local.size(),
                                region.address +
                                    static_cast<uint64_t>(remote_offset_bytes),
                                region.rkey, &params));
}

absl::Status UcxPeer::Put(const RemoteRegion& remote,
                          int64_t remote_offset_bytes,
                          absl::Span<const std::byte> local,
                          const Region* local_region, OpTag tag) {
  const auto& region = static_cast<const UcxRemoteRegion&>(remote);
  WEFT_RETURN_IF_ERROR(CheckRange(label_, remote_offset_bytes,
                                  static_cast<int64_t>(local.size()),
                                  region.size));
  WEFT_RETURN_IF_ERROR(death_);
  if (local.empty()) return Posted(NewOp(tag), nullptr);
  const int device = DeviceOfLocal(local.data(), local_region);
  if (!OneSided(region, device)) {
    return PostPut(region, remote_offset_bytes, local, device, tag);
  }
  Op& op = NewOp(tag);
  op.awaits_flush = true;
  const ucp_request_param_t params = TransferParams(op, local_region);
  return Posted(op, ucp_put_nbx(endpoint_, local.data(), local.size(),
                                region.address +
                                    static_cast<uint64_t>(remote_offset_bytes),
                                region.rkey, &params));
}

void UcxPeer::StartFlush() {
  if (flushing_ || unflushed_puts_.empty() || !death_.ok()) return;
  flushing_puts_ = std::move(unflushed_puts_);
  unflushed_puts_.clear();
  ucp_request_param_t params = {};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &OnFlushed;
  params.user_data = this;
  const ucs_status_ptr_t request = ucp_ep_flush_nbx(endpoint_, &params);
  flushing_ = UCS_PTR_IS_PTR(request);
  if (!flushing_) NoteFlushed(UCS_PTR_STATUS(request));
}

void UcxPeer::OnFlushed(void* request, ucs_status_t status, void* user_data) {
  auto& peer = *static_cast<UcxPeer*>(user_data);
  peer.flushing_ = false;
  peer.NoteFlushed(status);
  ucp_request_free(request);
}

void UcxPeer::NoteFlushed(ucs_status_t status) {
  const std::vector<Op*> flushed = std::exchange(flushing_puts_, {});
  for (Op* op : flushed) {
    if (!op->live) continue;
    op->awaits_flush = false;
    // A put says only that its source may be reused; the flush is what knows.
    if (status != UCS_OK && op->status.ok()) {
      op->status = ToStatus(status, label_);
    }
    FinishIfDone(*op);
  }
}

absl::Status UcxPeer::Gather(const RemoteRegion& remote,
                             const StridedPieces& pieces,
                             absl::Span<std::byte> local,
                             const Region* local_region, OpTag tag) {
  const auto& region = static_cast<const UcxRemoteRegion&>(remote);
  WEFT_RETURN_IF_ERROR(CheckPieces(label_, pieces, region.size,
                                   static_cast<int64_t>(local.size())));
  WEFT_RETURN_IF_ERROR(death_);
  if (local.empty()) return Posted(NewOp(tag), nullptr);
  return PostGather(region, pieces, local,
                    DeviceOfLocal(local.data(), local_region), tag);
}

absl::Status UcxPeer::PostGather(const UcxRemoteRegion& region,
                                 const StridedPieces& pieces,
                                 absl::Span<std::byte> local, int local_device,
                                 OpTag tag) {
  const uint64_t id = ++last_id_;
  WEFT_RETURN_IF_ERROR(SendRequest({.kind = Request::Kind::kGather,
                                    .id = id,
                                    .slot = region.slot,
                                    .generation = region.generation,
                                    .pieces = pieces}));
  Op& op = NewOp(tag);
  op.id = id;
  op.local = local;
  op.local_device = local_device;
  ops_by_id_[id] = &op;
  return absl::OkStatus();
}

absl::Status UcxPeer::PostPut(const UcxRemoteRegion& region,
                              int64_t remote_offset_bytes,
                              absl::Span<const std::byte> local,
                              int local_device, OpTag tag) {
  Op& op = NewOp(tag);
  op.id = ++last_id_;
  ops_by_id_[op.id] = &op;
  Request request{.kind = Request::Kind::kPut,
                  .client = client_id_,
                  .id = op.id,
                  .slot = region.slot,
                  .generation = region.generation};
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA;
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  params.cb.send = [](void* sent, ucs_status_t status, void* user_data) {
    const std::unique_ptr<PutMessage> message(
        static_cast<PutMessage*>(user_data));
    --message->op->ucx_requests;
    message->op->peer->NoteTransfer(*message->op, status);
    ucp_request_free(sent);
  };
  for (size_t begin = 0; begin < local.size(); begin += put_message_bytes_) {
    auto part = local.subspan(begin, put_message_bytes_);
    request.pieces.offset_bytes =
        remote_offset_bytes + static_cast<int64_t>(begin);
    auto message = std::make_unique<PutMessage>();
    message->op = &op;
    message->header = Encode(request);
    if (local_device != memory::kHostMemory) {
      message->staged.resize(part.size());
      op.status.Update(copier_.Copy(local_device, message->staged.data(),
                                    part.data(),
                                    static_cast<int64_t>(part.size())));
      if (!op.status.ok()) break;
      part = message->staged;
    }
    params.user_data = message.get();
    const ucs_status_ptr_t sent = ucp_am_send_nbx(
        endpoint_, kRequestId, message->header.data(), message->header.size(),
        part.data(), part.size(), &params);
    if (UCS_PTR_IS_ERR(sent)) {
      // Parts before this one are under way, so it ends as a completion.
      NoteLost(ucs_status_string(UCS_PTR_STATUS(sent)));
      break;
    }
    ++op.answers_awaited;
    if (sent != nullptr) {
      ++op.ucx_requests;
      static_cast<void>(message.release());  // deleted by the callback
    }
  }
  if (!op.status.ok()) FinishIfDone(op);  // nothing of it may be under way
  return absl::OkStatus();
}

ucs_status_t UcxPeer::OnData(void* arg, const void* header, size_t header_bytes,
                             void* data, size_t data_bytes,
                             const ucp_am_recv_param_t* param) {
  // Sent whole and never empty; anything else does not come from Weft.
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0 || data_bytes == 0) {
    return UCS_OK;
  }
  auto& peer = *static_cast<UcxPeer*>(arg);
  const absl::StatusOr<DataHeader> decoded =
      DecodeDataHeader({static_cast<const char*>(header), header_bytes});
  if (!decoded.ok()) return UCS_OK;
  const auto found = peer.ops_by_id_.find(decoded->id);
  if (found == peer.ops_by_id_.end()) return UCS_OK;  // given up before
  Op& op = *found->second;
  const size_t payload_bytes = data_bytes - 1;
  if (!CheckRange(peer.label_, decoded->packed_offset_bytes,
                  static_cast<int64_t>(payload_bytes),
                  static_cast<int64_t>(op.local.size()))
           .ok()) {
    return UCS_OK;
  }
  const auto* payload = static_cast<const std::byte*>(data);
  if (payload[payload_bytes] != kPayloadIsGood) {
    op.status = absl::NotFoundError(absl::StrCat(
        peer.label_, " has deregistered the region while it was read"));
    peer.FinishIfDone(op);
    return UCS_OK;
  }
  std::byte* const to = op.local.data() + decoded->packed_offset_bytes;
  if (op.local_device == memory::kHostMemory) {
    std::memcpy(to, payload, payload_bytes);
  } else if (absl::Status copied =
                 peer.copier_.Copy(op.local_device, to, payload,
                                   static_cast<int64_t>(payload_bytes));
             !copied.ok() && op.status.ok()) {
    op.status = std::move(copied);
  }
  peer.NoteReceived(op, payload_bytes);
  return UCS_OK;
}

void UcxPeer::NoteReceived(Op& op, size_t bytes) {
  op.received_bytes += bytes;
  FinishIfDone(op);
}

int UcxPeer::Poll(std::vector<Completion>& completions) {
  StartFlush();
  for (int i = 0; i < kStepsPerPoll && worker_->Progress(); ++i) {
  }
  Settle();
  const int appended = static_cast<int>(done_.size());
  completions.insert(completions.end(), done_.begin(), done_.end());
  done_.clear();
  return appended;
}

absl::Status UcxPeer::Flush(base::Deadline deadline) {
  const bool done = worker_->ProgressUntil(
      [this] {
        StartFlush();
        return live_ops_ == 0 || !death_.ok();
      },
      deadline);
  Settle();
  if (!death_.ok()) return death_;
  if (done) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(
      "deadline passed while flushing ", live_ops_, " transfers of ", label_));
}

absl::Status UcxPeer::Health() {
  for (int i = 0; i < kStepsPerPoll && worker_->Progress(); ++i) {
  }
  Settle();
  return death_;
}

}  // namespace weft::transport::ucx
