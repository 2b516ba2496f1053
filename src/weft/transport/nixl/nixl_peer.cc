#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/nixl/nixl_peer_internal.h"
#include "weft/transport/nixl/nixl_server_internal.h"
#include "weft/transport/nixl/nixl_wire.h"
#include "weft/transport/region_key.h"

namespace weft::transport::nixl {
namespace {

using Kind = Message::Kind;

// Requests that are kept for another time: a plan's pieces, or a part of them.
constexpr size_t kMostKept = 4096;
constexpr std::chrono::milliseconds kLookInterval{1};
constexpr std::chrono::milliseconds kPingInterval{100};
// Steps that a wait takes awake before it sleeps between them.
constexpr int kStepsAwake = 200;
constexpr std::chrono::microseconds kSleep{20};
// What transfers of a lost peer get to end: milliseconds when its connection is
// gone or it still answers; only one that is stopped takes longer.
constexpr std::chrono::seconds kEndPatience{2};

}  // namespace

NixlPeer::NixlPeer(std::shared_ptr<Agent> agent, std::shared_ptr<Mail> mail,
                   Address address, std::string label,
                   const PeerOptions& options)
    : agent_(std::move(agent)),
      mail_(std::move(mail)),
      address_(std::move(address)),
      label_(std::move(label)),
      options_(options),
      copier_(options.driver),
      client_id_(RandomId()) {
  mail_->Open(client_id_);
}

absl::Status NixlPeer::Connect(const std::string& host,
                               base::Deadline deadline) {
  if (!host.empty() && address_.host == host) {
    is_own_process_ = address_.process == getpid();
    process_fd_ =
        static_cast<int>(syscall(SYS_pidfd_open, address_.process, 0));
    if (process_fd_ < 0 && errno == ESRCH) {
      death_ = absl::UnavailableError(absl::StrCat(
          label_, " is lost: process ", address_.process, " is gone"));
      return death_;
    }
  }
  WEFT_RETURN_IF_ERROR(base::Annotate(
      agent_->Acquire(address_.agent, address_.connection), label_));
  acquired_ = true;
  const absl::StatusOr<Message> answer = Ask({.kind = Kind::kHello,
                                              .instance = address_.instance,
                                              .agent = agent_->name(),
                                              .metadata = agent_->connection()},
                                             deadline);
  if (!answer.ok()) return answer.status();
  return base::Annotate(answer->status, label_);
}

NixlPeer::~NixlPeer() {
  if (acquired_) {
    if (death_.ok()) {
      mail_->Send(address_.agent, {.kind = Kind::kBye, .client = client_id_})
          .IgnoreError();
    }
    death_ = absl::CancelledError("the peer was let go");
    Settle();
    DropKept();
    agent_->Release(address_.agent);
  }
  mail_->Close(client_id_);
  if (process_fd_ >= 0) close(process_fd_);
}

void NixlPeer::NoteLost(std::string_view why) {
  if (!death_.ok()) return;
  death_ = absl::UnavailableError(
      absl::StrCat(label_, " is lost: ", std::string(why)));
}

bool NixlPeer::EndTransfers() {
  const auto patience = base::Deadline::After(kEndPatience);
  for (int step = 0;; ++step) {
    std::erase_if(transfers_, [this](const Transfer& transfer) {
      if (transfer.request == nullptr) return true;
      if (agent_->Check(transfer.request) == kInProgress) return false;
      agent_->Drop(transfer.request);
      return true;
    });
    if (transfers_.empty()) return true;
    if (patience.Passed()) return false;
    if (step > kStepsAwake) std::this_thread::sleep_for(kSleep);
  }
}

void NixlPeer::Settle() {
  if (death_.ok()) return;
  // Who hears that an operation failed may free its memory, so nothing may be
  // on its way to it. NIXL cannot call a transfer back, and where UCX moves the
  // bytes by messages, the reply to a request that NIXL has released, and even
  // disconnected, is still written when it comes.
  if (!EndTransfers()) {
    for (const Transfer& transfer : transfers_) agent_->Drop(transfer.request);
    transfers_.clear();
    agent_->Shut(absl::StrCat("a transfer of ", label_, " does not end"));
  }
  while (!ops_.empty()) {
    Op& op = ops_.begin()->second;
    op.status = death_;
    Finish(ops_.begin()->first);
  }
}

void NixlPeer::DropKept() {
  for (const auto& [route, request] : kept_) agent_->Drop(request);
  kept_.clear();
}

void NixlPeer::LookAfterProcess() {
  if (!death_.ok() || !next_look_.Passed()) return;
  next_look_ = base::Deadline::After(kLookInterval);
  if (process_fd_ >= 0) {
    pollfd ended = {.fd = process_fd_, .events = POLLIN, .revents = 0};
    if (poll(&ended, 1, 0) == 1) return NoteLost("its process has ended");
  }
  if (!next_ping_.Passed()) return;
  next_ping_ = base::Deadline::After(kPingInterval);
  // NIXL tells nobody that a peer is gone: sending to it does.
  const absl::Status sent =
      mail_->Send(address_.agent, {.kind = Kind::kPing, .client = client_id_});
  if (!sent.ok()) NoteLost(std::string(sent.message()));
}

absl::StatusOr<Message> NixlPeer::Ask(Message request,
                                      base::Deadline deadline) {
  request.client = client_id_;
  request.id = ++last_id_;
  awaited_id_ = request.id;
  const absl::Status sent = mail_->Send(address_.agent, request);
  if (!sent.ok()) NoteLost(std::string(sent.message()));
  for (int step = 0;; ++step) {
    TakeMessages();
    const auto answer = answers_.find(awaited_id_);
    if (answer != answers_.end()) {
      Message found = std::move(answer->second);
      answers_.clear();
      return found;
    }
    LookAfterProcess();
    CheckTransfers();
    if (!death_.ok() || deadline.Passed()) break;
    if (step > kStepsAwake) std::this_thread::sleep_for(kSleep);
  }
  awaited_id_ = 0;
  Settle();
  if (!death_.ok()) return death_;
  return absl::DeadlineExceededError(
      absl::StrCat("deadline passed while waiting for an answer of ", label_));
}

absl::StatusOr<std::unique_ptr<RemoteRegion>> NixlPeer::Import(
    std::string_view key) {
  WEFT_ASSIGN_OR_RETURN(const RegionKey decoded, DecodeKey(kLeaf, key));
  base::ByteReader native(decoded.native);
  auto region = std::make_unique<NixlRemoteRegion>();
  region->slot = decoded.slot;
  region->generation = decoded.generation;
  region->memory.address = native.U64();
  region->memory.device = native.U64();
  region->memory.type = static_cast<MemoryType>(native.U8());
  region->on_device = native.U8() != 0;
  region->memory.bytes = static_cast<uint64_t>(decoded.size_bytes);
  const std::string metadata(native.Bytes());
  if (!native.Finish("key").ok() ||
      metadata.empty() != (decoded.size_bytes == 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the region key of ", label_, " is malformed"));
  }
  WEFT_RETURN_IF_ERROR(Health());
  if (decoded.instance != address_.instance) {
    return absl::NotFoundError(
        absl::StrCat("the key was not made by ", label_));
  }
  WEFT_ASSIGN_OR_RETURN(const Message answer,
                        Ask({.kind = Kind::kImport,
                             .slot = decoded.slot,
                             .generation = decoded.generation},
                            base::Deadline::After(options_.import_timeout)));
  WEFT_RETURN_IF_ERROR(base::Annotate(answer.status, label_));
  if (answer.size_bytes != decoded.size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the key says ", decoded.size_bytes, " bytes, ", label_,
                     " has a region of ", answer.size_bytes));
  }
  if (!metadata.empty()) {
    WEFT_RETURN_IF_ERROR(
        base::Annotate(agent_->Load(address_.agent, metadata), label_));
  }
  if (region->on_device && region->memory.bytes > 0) {
    WEFT_RETURN_IF_ERROR(
        ProbeDevice(*region, base::Deadline::After(options_.import_timeout)));
  }
  return region;
}

absl::Status NixlPeer::Start(Transfer transfer, const Near& local,
                             const Memory& remote, uint64_t remote_generation,
                             Operation operation) {
  transfer.route = {operation,        remote_generation,    remote.address,
                    local.generation, local.memory.address, local.memory.bytes};
  if (is_own_process_ && remote.type == MemoryType::kDevice) {
    WEFT_RETURN_IF_ERROR(CopyHere(operation, local.memory, remote));
    transfers_.push_back(transfer);
    return absl::OkStatus();
  }
  transfer.keep = local.generation != 0;
  const auto kept = transfer.keep ? kept_.find(transfer.route) : kept_.end();
  if (kept != kept_.end()) {
    transfer.request = kept->second;
    kept_.erase(kept);
  } else {
    WEFT_ASSIGN_OR_RETURN(
        transfer.request,
        agent_->Prepare(operation, local.memory, remote, address_.agent));
  }
  if (absl::Status posted = agent_->Post(transfer.request); !posted.ok()) {
    agent_->Drop(transfer.request);
    return posted;
  }
  transfers_.push_back(transfer);
  return absl::OkStatus();
}

absl::Status NixlPeer::PostOne(Operation operation, const RemoteRegion& remote,
                               int64_t remote_offset_bytes,
                               absl::Span<const std::byte> local,
                               const Region* local_region, OpTag tag) {
  const auto& region = static_cast<const NixlRemoteRegion&>(remote);
  WEFT_RETURN_IF_ERROR(CheckRange(label_, remote_offset_bytes,
                                  static_cast<int64_t>(local.size()),
                                  region.size_bytes()));
  WEFT_RETURN_IF_ERROR(death_);
  if (local.empty()) {
    done_.push_back({tag, absl::OkStatus()});
    return absl::OkStatus();
  }
  Op op{.tag = tag, .transfers = 1};
  WEFT_ASSIGN_OR_RETURN(
      op.local, FindLocal(operation, region.on_device, local, local_region));
  Memory far = region.memory;
  far.address += static_cast<uint64_t>(remote_offset_bytes);
  far.bytes = local.size();
  const uint64_t id = ++last_id_;
  const absl::Status started =
      Start({.op = id}, {op.local.memory, op.local.generation}, far,
            region.generation, operation);
  if (!started.ok()) {
    if (op.local.generation == 0) agent_->Deregister(op.local.memory);
    NoteLost(std::string(started.message()));
    return death_;
  }
  ops_.emplace(id, std::move(op));
  return absl::OkStatus();
}

absl::Status NixlPeer::Get(const RemoteRegion& remote,
                           int64_t remote_offset_bytes,
                           absl::Span<std::byte> local,
                           const Region* local_region, OpTag tag) {
  return PostOne(Operation::kRead, remote, remote_offset_bytes, local,
                 local_region, tag);
}

absl::Status NixlPeer::Put(const RemoteRegion& remote,
                           int64_t remote_offset_bytes,
                           absl::Span<const std::byte> local,
                           const Region* local_region, OpTag tag) {
  return PostOne(Operation::kWrite, remote, remote_offset_bytes, local,
                 local_region, tag);
}

absl::Status NixlPeer::Gather(const RemoteRegion& remote,
                              const StridedPieces& pieces,
                              absl::Span<std::byte> local,
                              const Region* local_region, OpTag tag) {
  const auto& region = static_cast<const NixlRemoteRegion&>(remote);
  WEFT_RETURN_IF_ERROR(CheckPieces(label_, pieces, region.size_bytes(),
                                   static_cast<int64_t>(local.size())));
  WEFT_RETURN_IF_ERROR(death_);
  if (local.empty()) {
    done_.push_back({tag, absl::OkStatus()});
    return absl::OkStatus();
  }
  Op op{.tag = tag,
        .far_on_device = region.on_device,
        .awaited_bytes = static_cast<int64_t>(local.size())};
  WEFT_ASSIGN_OR_RETURN(op.local, FindLocal(Operation::kRead, region.on_device,
                                            local, local_region));
  const uint64_t id = ++last_id_;
  const absl::Status sent =
      mail_->Send(address_.agent, {.kind = Kind::kGather,
                                   .client = client_id_,
                                   .id = id,
                                   .slot = region.slot,
                                   .generation = region.generation,
                                   .pieces = pieces});
  if (!sent.ok()) {
    if (op.local.generation == 0) agent_->Deregister(op.local.memory);
    NoteLost(std::string(sent.message()));
    return death_;
  }
  ops_.emplace(id, std::move(op));
  return absl::OkStatus();
}

void NixlPeer::NoteTaken(bool on_device, uint64_t chunk) {
  mail_
      ->Send(address_.agent, {.kind = Kind::kTaken,
                              .client = client_id_,
                              .on_device = on_device,
                              .chunk = chunk})
      .IgnoreError();
}

void NixlPeer::TakeChunk(const Message& chunk) {
  const auto found = ops_.find(chunk.id);
  const uint64_t bytes = static_cast<uint64_t>(chunk.size_bytes);
  const uint64_t offset = static_cast<uint64_t>(chunk.packed_offset_bytes);
  // What the owner sends is checked: it says where bytes of this process go.
  const Ring& ring = RingOn(chunk.on_device);
  if (found == ops_.end() || bytes > ring.chunk_bytes ||
      chunk.on_device != found->second.far_on_device ||
      chunk.chunk >=
          ring.memory.bytes / std::max<uint64_t>(ring.chunk_bytes, 1) ||
      offset > found->second.local.memory.bytes ||
      bytes > found->second.local.memory.bytes - offset) {
    return NoteTaken(chunk.on_device, chunk.chunk);
  }
  Op& op = found->second;
  Near near{op.local.memory, op.local.generation};
  near.memory.address += offset;
  near.memory.bytes = bytes;
  Memory far = ring.memory;
  far.address += chunk.chunk * ring.chunk_bytes;
  far.bytes = bytes;
  const absl::Status started =
      Start({.op = chunk.id, .chunk = chunk.chunk}, near, far,
            ring.memory.device, Operation::kRead);
  if (!started.ok()) return NoteLost(std::string(started.message()));
  ++op.transfers;
}

bool NixlPeer::TakeMessages() {
  const std::vector<Message> messages = mail_->Take(client_id_);
  for (const Message& message : messages) {
    switch (message.kind) {
      case Kind::kAnswer:
        if (const auto op = ops_.find(message.id); op != ops_.end()) {
          op->second.status = base::Annotate(message.status, label_);
          op->second.awaited_bytes = 0;
          FinishIfDone(message.id);
        } else if (message.id == awaited_id_) {
          answers_.insert_or_assign(message.id, message);
        }
        break;
      case Kind::kRing:
        RingOn(message.on_device) = {
            {.address = message.address,
             .bytes = static_cast<uint64_t>(message.size_bytes) * kRingChunks,
             .device = message.generation,
             .type = static_cast<MemoryType>(message.memory_type)},
            static_cast<uint64_t>(message.size_bytes)};
        if (absl::Status loaded =
                agent_->Load(address_.agent, message.metadata);
            !loaded.ok()) {
          NoteLost(std::string(loaded.message()));
        }
        break;
      case Kind::kChunk:
        TakeChunk(message);
        break;
      case Kind::kClosed:
        NoteLost("it closed its transport");
        break;
      default:
        break;
    }
  }
  return !messages.empty();
}

void NixlPeer::Finish(uint64_t id) {
  const auto found = ops_.find(id);
  Op op = std::move(found->second);
  ops_.erase(found);
  if (op.local.generation == 0) agent_->Deregister(op.local.memory);
  const Between* const between = op.local.between.get();
  if (op.status.ok() && between != nullptr && between->read_into != nullptr) {
    op.status = copier_.Copy(between->copied_by, between->read_into,
                             between->data, between->bytes);
  }
  done_.push_back({op.tag, std::move(op.status)});
}

void NixlPeer::FinishIfDone(uint64_t id) {
  const auto found = ops_.find(id);
  if (found == ops_.end()) return;
  if (found->second.transfers == 0 && found->second.awaited_bytes == 0) {
    Finish(id);
  }
}

bool NixlPeer::CheckTransfers() {
  bool moved = false;
  for (size_t i = 0; i < transfers_.size();) {
    const NixlStatus status = transfers_[i].request == nullptr
                                  ? kDone
                                  : agent_->Check(transfers_[i].request);
    if (status == kInProgress) {
      ++i;
      continue;
    }
    if (status != kDone) {
      NoteLost(
          status == kShut
              ? "nixl was shut"
              : absl::StrCat("nixl reports that a transfer failed (status ",
                             status, ")"));
      return true;
    }
    moved = true;
    const Transfer transfer = transfers_[i];
    transfers_[i] = transfers_.back();
    transfers_.pop_back();
    if (!transfer.keep) {
      if (transfer.request != nullptr) agent_->Drop(transfer.request);
    } else {
      if (kept_.size() >= kMostKept) DropKept();
      kept_.emplace(transfer.route, transfer.request);
    }
    Op& op = ops_.at(transfer.op);
    --op.transfers;
    if (transfer.chunk.has_value()) {
      const auto bytes = static_cast<int64_t>(std::get<5>(transfer.route));
      op.awaited_bytes = std::max<int64_t>(0, op.awaited_bytes - bytes);
      NoteTaken(op.far_on_device, *transfer.chunk);
    }
    FinishIfDone(transfer.op);
  }
  return moved;
}

int NixlPeer::Poll(std::vector<Completion>& completions) {
  if (death_.ok() && !ops_.empty()) {
    TakeMessages();
    if (death_.ok()) CheckTransfers();
    LookAfterProcess();
  }
  Settle();
  const int count = static_cast<int>(done_.size());
  for (Completion& completion : done_) {
    completions.push_back(std::move(completion));
  }
  done_.clear();
  return count;
}

absl::Status NixlPeer::Flush(base::Deadline deadline) {
  for (int step = 0; death_.ok(); ++step) {
    TakeMessages();
    if (death_.ok()) CheckTransfers();
    LookAfterProcess();
    if (death_.ok() && ops_.empty()) return absl::OkStatus();
    if (death_.ok() && deadline.Passed()) {
      return absl::DeadlineExceededError(
          absl::StrCat("deadline passed with ", ops_.size(),
                       " operations in flight to ", label_));
    }
    if (step > kStepsAwake) std::this_thread::sleep_for(kSleep);
  }
  Settle();
  return death_;
}

absl::Status NixlPeer::Health() {
  if (death_.ok()) {
    TakeMessages();
    LookAfterProcess();
    Settle();
  }
  return death_;
}

}  // namespace weft::transport::nixl
