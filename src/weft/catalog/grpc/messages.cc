#include <chrono>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

// In grpc::Status::error_details: tells an answer of the catalog from a
// failure that gRPC reports with the same code.
constexpr char kCatalogAnswered[] = "weft.catalog.v1";
constexpr char kUnreachable[] = "weft.catalog/unreachable";

}  // namespace

void ToWire(const VersionId& version, wire::VersionId& message) {
  message.set_run_id(version.run_id);
  message.set_epoch(version.epoch);
  message.set_step(version.step);
}

VersionId FromWire(const wire::VersionId& message) {
  return {.run_id = message.run_id(),
          .epoch = message.epoch(),
          .step = message.step()};
}

namespace {

using WireLabels = google::protobuf::Map<std::string, std::string>;

void ToWire(const Labels& labels, WireLabels& message) {
  for (const auto& [name, value] : labels) message[name] = value;
}

Labels FromWire(const WireLabels& message) {
  return Labels(message.begin(), message.end());
}

}  // namespace

void ToWire(const VersionRecord& record, wire::VersionRecord& message) {
  message.set_model(record.model);
  ToWire(record.version, *message.mutable_version());
  message.set_state(static_cast<wire::VersionState>(record.state));
  message.set_reason(record.reason);
  message.set_ranks_published(record.ranks_published);
  message.set_ranks_expected(record.ranks_expected);
  message.set_leases(record.leases);
  message.set_source_set(record.source_set);
  ToWire(record.labels, *message.mutable_labels());
}

VersionRecord FromWire(const wire::VersionRecord& message) {
  // A state that this build does not know is none to read from.
  const bool known_state = wire::VersionState_IsValid(message.state()) &&
                           message.state() != wire::VERSION_STATE_UNSPECIFIED;
  return {.model = message.model(),
          .version = FromWire(message.version()),
          .state = known_state ? static_cast<VersionState>(message.state())
                               : VersionState::kGone,
          .reason = message.reason(),
          .ranks_published = message.ranks_published(),
          .ranks_expected = message.ranks_expected(),
          .leases = message.leases(),
          .source_set = message.source_set(),
          .labels = FromWire(message.labels())};
}

void ToWire(const WorkerInfo& info, wire::WorkerInfo& message) {
  message.set_model(info.model);
  message.set_role(static_cast<wire::Role>(info.role));
  message.set_layout_spec(info.layout_spec);
  message.set_rank(info.rank);
  message.set_num_ranks(info.num_ranks);
  message.set_run_id(info.run_id);
  message.set_epoch(info.epoch);
  message.set_host_id(info.host_id);
  message.set_process_id(info.process_id);
  message.set_placement_digest_hex(info.placement_digest_hex);
  message.set_model_card_digest_hex(info.model_card_digest_hex);
  message.set_shard_key(info.shard_key);
  ToWire(info.labels, *message.mutable_labels());
  message.set_owner(info.owner);
  message.set_rejoins(info.rejoins);
  message.mutable_held_shards()->Assign(info.held_shards.begin(),
                                        info.held_shards.end());
}

// Role has one byte: a number beyond it must not wrap into a role.
Role FromWire(wire::Role role) {
  return role >= wire::ROLE_PUBLISHER && role <= wire::ROLE_COPY
             ? static_cast<Role>(role)
             : Role{0};
}

WorkerInfo FromWire(const wire::WorkerInfo& message) {
  return {.model = message.model(),
          .role = FromWire(message.role()),
          .layout_spec = message.layout_spec(),
          .rank = message.rank(),
          .num_ranks = message.num_ranks(),
          .run_id = message.run_id(),
          .epoch = message.epoch(),
          .host_id = message.host_id(),
          .process_id = message.process_id(),
          .placement_digest_hex = message.placement_digest_hex(),
          .model_card_digest_hex = message.model_card_digest_hex(),
          .shard_key = message.shard_key(),
          .held_shards = {message.held_shards().begin(),
                          message.held_shards().end()},
          .labels = FromWire(message.labels()),
          .owner = message.owner(),
          .rejoins = message.rejoins()};
}

void ToWire(const WorkerRecord& record, wire::WorkerRecord& message) {
  message.set_worker_id(record.worker_id);
  message.set_generation(record.generation);
  ToWire(record.info, *message.mutable_info());
  message.set_alive(record.alive);
  message.set_fenced_reason(record.fenced_reason);
  if (!record.committed.run_id.empty()) {
    ToWire(record.committed, *message.mutable_committed());
  }
  message.set_death_reason(record.death_reason);
  if (!record.holds.run_id.empty()) {
    ToWire(record.holds, *message.mutable_holds());
  }
}

WorkerRecord FromWire(const wire::WorkerRecord& message) {
  return {.worker_id = message.worker_id(),
          .generation = message.generation(),
          .info = FromWire(message.info()),
          .alive = message.alive(),
          .fenced_reason = message.fenced_reason(),
          .committed = FromWire(message.committed()),
          .holds = FromWire(message.holds()),
          .death_reason = message.death_reason()};
}

void ToWire(const SourceRecord& record, wire::SourceRecord& message) {
  message.set_rank(record.rank);
  message.set_generation(record.generation);
  message.set_host_id(record.host_id);
  message.set_placement_digest_hex(record.placement_digest_hex);
  message.set_binding(record.binding);
  message.set_role(static_cast<wire::Role>(record.role));
  message.set_worker_id(record.worker_id);
  if (!record.holds.run_id.empty()) {
    ToWire(record.holds, *message.mutable_holds());
  }
  message.mutable_shard_keys()->Assign(record.shard_keys.begin(),
                                       record.shard_keys.end());
}

SourceRecord FromWire(const wire::SourceRecord& message) {
  return {
      .rank = message.rank(),
      .generation = message.generation(),
      .host_id = message.host_id(),
      .placement_digest_hex = message.placement_digest_hex(),
      .binding = message.binding(),
      .role =
          message.role() == wire::ROLE_COPY ? Role::kCopy : Role::kPublisher,
      .worker_id = message.worker_id(),
      .holds = FromWire(message.holds()),
      .shard_keys = {message.shard_keys().begin(), message.shard_keys().end()}};
}

void ToWire(const LeaseRecord& record, wire::LeaseRecord& message) {
  message.set_lease_id(record.lease_id);
  message.set_model(record.model);
  ToWire(record.version, *message.mutable_version());
  message.set_worker_id(record.worker_id);
  message.set_expires_in_ns(record.expires_in.count());
}

LeaseRecord FromWire(const wire::LeaseRecord& message) {
  return {.lease_id = message.lease_id(),
          .model = message.model(),
          .version = FromWire(message.version()),
          .worker_id = message.worker_id(),
          .expires_in = std::chrono::nanoseconds(message.expires_in_ns())};
}

void ToWire(const Event& event, wire::Event& message) {
  message.set_number(event.number);
  message.set_unix_ns(event.unix_ns);
  message.set_kind(static_cast<uint32_t>(event.kind));
  message.set_model(event.model);
  if (!event.worker_id.empty()) {
    message.set_worker_id(event.worker_id);
    message.set_generation(event.generation);
    message.set_role(static_cast<wire::Role>(event.role));
    message.set_rank(event.rank);
  }
  if (!event.version.run_id.empty()) {
    ToWire(event.version, *message.mutable_version());
  }
  message.set_lease_id(event.lease_id);
  message.set_ranks_published(event.ranks_published);
  message.set_ranks_expected(event.ranks_expected);
  message.set_reason(event.reason);
}

Event FromWire(const wire::Event& message) {
  const bool known = message.kind() <= static_cast<uint32_t>(kLastEventKind);
  return {.number = message.number(),
          .unix_ns = message.unix_ns(),
          .kind = known ? static_cast<EventKind>(message.kind()) : EventKind{0},
          .model = message.model(),
          .worker_id = message.worker_id(),
          .generation = message.generation(),
          .role = FromWire(message.role()),
          .rank = message.rank(),
          .version = FromWire(message.version()),
          .lease_id = message.lease_id(),
          .ranks_published = message.ranks_published(),
          .ranks_expected = message.ranks_expected(),
          .reason = message.reason()};
}

grpc::Status ToWireStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  // Status messages travel in a header, whose size gRPC limits.
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      std::string(status.message().substr(0, kMaxTextBytes)),
                      kCatalogAnswered);
}

absl::Status NoCatalogAnswers(const std::string& address) {
  absl::Status status = absl::UnavailableError(
      absl::StrCat("no catalog answers at ", address,
                   " (start one with: weft catalog --listen ", address, ")"));
  status.SetPayload(kUnreachable, absl::Cord());
  return status;
}

bool IsUnreachable(const absl::Status& status) {
  return status.GetPayload(kUnreachable).has_value();
}

absl::Status FromWireStatus(const grpc::Status& status, std::string_view doing,
                            const std::string& address) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (status.error_details() == kCatalogAnswered) {
    absl::Status answer(code, status.error_message());
    if (absl::IsResourceExhausted(answer)) {
      answer.SetPayload(kCatalogLimitPayload, absl::Cord());
    }
    return answer;
  }
  switch (code) {
    case absl::StatusCode::kUnavailable:
    // A server that ends cancels its calls.
    case absl::StatusCode::kCancelled:
      return NoCatalogAnswers(address);
    case absl::StatusCode::kDeadlineExceeded:
      return absl::DeadlineExceededError(absl::StrCat("deadline passed while ",
                                                      std::string(doing),
                                                      " at catalog ", address));
    default:
      return absl::Status(
          code, absl::StrCat(std::string(doing), " at catalog ", address,
                             " failed: ", status.error_message()));
  }
}

}  // namespace weft::catalog
