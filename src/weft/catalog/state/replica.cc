#include "weft/catalog/state/replica.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/catalog/state/field_codec.h"

namespace weft::catalog {
namespace {

using Kind = Command::Kind;
using TimePoint = CatalogState::TimePoint;

constexpr uint32_t kSnapshotFormat = 0x57435335;  // "WCS5"

constexpr std::size_t kLeftKept = 256;

template <typename T>
void Take(absl::StatusOr<T> from, T& value, absl::Status& status) {
  status = from.status();
  if (from.ok()) value = *std::move(from);
}

}  // namespace

Replica::Outcome Replica::Apply(std::string_view entry) {
  Outcome outcome;
  ++entries_;
  ++entries_since_snapshot_;
  bytes_since_snapshot_ += entry.size();
  if (entries_since_snapshot_ >= entries_a_snapshot_ ||
      (entries_since_snapshot_ >= kFewestASnapshot &&
       bytes_since_snapshot_ >= kBytesASnapshot)) {
    outcome.snapshot_due = true;
    entries_since_snapshot_ = 0;
    bytes_since_snapshot_ = 0;
  }
  const absl::StatusOr<Command> command = DecodeCommand(entry);
  if (!command.ok()) return outcome;
  outcome.server = command->server;
  outcome.sequence = command->sequence;
  if (command->kind == Kind::kJoin) {
    if (command->server.empty() || HasLeft(command->server)) return outcome;
    servers_.try_emplace(command->server, 0);
  } else {
    const auto server = servers_.find(command->server);
    if (server == servers_.end() || command->sequence <= server->second) {
      return outcome;
    }
    server->second = command->sequence;
  }
  now_ = std::max(now_, TimePoint(std::chrono::nanoseconds(command->now_ns)));
  state_.SetEventTime(
      std::chrono::nanoseconds(now_.time_since_epoch()).count());
  state_.Expire(now_);
  outcome.result = Run(*command);
  if (command->kind == Kind::kLeave) outcome.left = command->id;
  if (outcome.result->is_new) outcome.placed = command->text;
  return outcome;
}

CommandResult Replica::Run(const Command& command) {
  CommandResult result;
  switch (command.kind) {
    case Kind::kJoin:
      state_.RaiseNumbers(command.number);
      break;
    case Kind::kLeave:
      if (servers_.erase(command.id) == 1) left_.push_back(command.id);
      if (left_.size() > kLeftKept) left_.pop_front();
      state_.OrphanAllOf(command.id, now_);
      break;
    case Kind::kTick:
      break;
    case Kind::kPutPlacement:
      result.is_new = state_.placements().Put(
          {.digest_hex = command.id,
           .place = command.text,
           .byte_count = static_cast<int64_t>(command.number)});
      break;
    case Kind::kRegister:
    case Kind::kAttach:
    case Kind::kReattach:
    case Kind::kDetach:
    case Kind::kOrphan:
      return RunWorkerCommand(command);
    default:
      return RunLeaseCommand(command);
  }
  return result;
}

CommandResult Replica::RunWorkerCommand(const Command& command) {
  CommandResult result;
  const Holder holder{command.server, command.token};
  switch (command.kind) {
    case Kind::kRegister: {
      WorkerInfo info = command.info;
      info.rejoins = command.flag;
      Take(state_.Register(info, command.text, now_), result.registration,
           result.status);
      break;
    }
    case Kind::kAttach:
      result.status = state_.Attach(command.id, holder);
      result.registration = state_.FindRegistration(command.id);
      break;
    case Kind::kReattach:
      result.status =
          state_.Reattach({command.id, command.number}, holder, command.flag);
      result.registration = state_.FindRegistration(command.id);
      break;
    case Kind::kDetach:
      state_.Detach(command.id, holder, command.flag);
      break;
    default:
      state_.Orphan(command.id, holder, now_);
  }
  return result;
}

CommandResult Replica::RunLeaseCommand(const Command& command) {
  CommandResult result;
  switch (command.kind) {
    case Kind::kPublish:
      Take(command.flag ? state_.RepublishShard(command.id, command.number)
                        : state_.PublishShard(command.id, command.number),
           result.record, result.status);
      break;
    case Kind::kRetire:
      Take(state_.Retire(command.id), result.key, result.status);
      break;
    case Kind::kRevoke:
      result.revoked =
          state_.RevokeAndWithdraw({command.text, command.version});
      break;
    case Kind::kAcquire:
      Take(state_.AcquireLease(command.id, command.version, now_), result.lease,
           result.status);
      break;
    case Kind::kAcquireNewest:
      Take(state_.AcquireNewestLease(
               command.id, command.flag ? &command.version : nullptr, now_),
           result.lease, result.status);
      break;
    case Kind::kRenew:
      result.status = state_.RenewLease(command.id, now_);
      break;
    case Kind::kReport:
      result.status = state_.ReportServing(
          command.id, command.flag ? &command.version : nullptr, command.text);
      break;
    default:
      result.status =
          state_.ReleaseLease(command.id, command.flag, command.text);
  }
  return result;
}

std::vector<std::string> Replica::Servers() const {
  std::vector<std::string> servers;
  for (const auto& [server, sequence] : servers_) servers.push_back(server);
  return servers;
}

bool Replica::HasLeft(const std::string& server) const {
  return std::count(left_.begin(), left_.end(), server) > 0;
}

uint64_t Replica::LastSequenceOf(const std::string& server) const {
  const auto found = servers_.find(server);
  return found == servers_.end() ? 0 : found->second;
}

std::string Replica::Encode() const {
  base::ByteWriter writer;
  writer.U32(kSnapshotFormat);
  writer.U64(entries_);
  writer.U64(entries_since_snapshot_);
  writer.U64(bytes_since_snapshot_);
  writer.I64(std::chrono::nanoseconds(now_.time_since_epoch()).count());
  writer.U32(static_cast<uint32_t>(servers_.size()));
  for (const auto& [server, sequence] : servers_) {
    writer.Bytes(server);
    writer.U64(sequence);
  }
  writer.U32(static_cast<uint32_t>(left_.size()));
  for (const std::string& server : left_) writer.Bytes(server);
  state_.Encode(writer);
  return writer.Take();
}

absl::StatusOr<Replica> Replica::Decode(std::string_view bytes,
                                        const StateOptions& options,
                                        uint64_t entries_a_snapshot) {
  base::ByteReader reader(bytes);
  if (reader.U32() != kSnapshotFormat) reader.Fail();
  Replica replica(options, entries_a_snapshot);
  replica.entries_ = reader.U64();
  replica.entries_since_snapshot_ = reader.U64();
  replica.bytes_since_snapshot_ = reader.U64();
  const int64_t now_ns = reader.I64();
  if (now_ns < 0 || now_ns > kLastClockNs) reader.Fail();
  replica.now_ = TimePoint(std::chrono::nanoseconds(now_ns));
  const std::size_t servers = reader.Count(12);
  for (std::size_t i = 0; i < servers && reader.ok(); ++i) {
    std::string server(reader.Bytes());
    replica.servers_[std::move(server)] = reader.U64();
  }
  const std::size_t left = reader.Count(4);
  for (std::size_t i = 0; i < left && reader.ok(); ++i) {
    replica.left_.emplace_back(reader.Bytes());
  }
  WEFT_RETURN_IF_ERROR(replica.state_.Decode(reader));
  WEFT_RETURN_IF_ERROR(reader.Finish("catalog snapshot"));
  return replica;
}

}  // namespace weft::catalog
