#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/modelexpress/refit_checks_internal.h"
#include "weft/catalog/modelexpress/refit_versions_internal.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {
namespace {

constexpr auto kStaging = mxr::WEIGHT_VERSION_STATE_STAGING;
constexpr auto kReady = mxr::WEIGHT_VERSION_STATE_READY;
constexpr auto kReleasing = mxr::WEIGHT_VERSION_STATE_RELEASING;

std::string StateName(mxr::WeightVersionState state) {
  return state == kStaging ? "STAGING"
         : state == kReady ? "READY"
                           : "RELEASING";
}

std::string Named(const mxr::WeightVersion& version) {
  return absl::StrCat("version \"", CleanReason(version.uid()), "\"");
}

bool SameRequest(const mxr::WeightVersion& version,
                 mxr::WeightVersionState initial_state,
                 const mxr::CreateWeightVersionRequest& request) {
  return (!request.has_uid() || request.uid() == version.uid()) &&
         version.payload_format() == request.payload_format() &&
         version.has_base_version_id() == request.has_base_version_id() &&
         version.base_version_id() == request.base_version_id() &&
         std::equal(version.expected_source_slots().begin(),
                    version.expected_source_slots().end(),
                    request.expected_source_slots().begin(),
                    request.expected_source_slots().end()) &&
         version.has_object_storage() == request.has_object_storage() &&
         version.object_storage().uri() == request.object_storage().uri() &&
         initial_state == request.state();
}

}  // namespace

std::string ModelExpressLeaseId(const std::string& version_id,
                                const std::string& worker_id) {
  return manifest::DigestOf(version_id + '\0' + worker_id).ToHex().substr(0, 8);
}

// What a version takes at most: its message, its slots again in a set, and its
// uid and key in the tables.
int64_t ModelExpressVersions::BytesOf(const mxr::WeightVersion& version) {
  return 2 * static_cast<int64_t>(version.ByteSizeLong());
}

absl::StatusOr<ModelExpressVersions::Version*> ModelExpressVersions::Find(
    const std::string& uid) {
  base::FaultList faults;
  CheckMxName("version id", uid, faults);
  if (!faults.empty()) {
    return faults.ToStatus(absl::StatusCode::kInvalidArgument);
  }
  const auto found = versions_.find(uid);
  if (found == versions_.end()) {
    return absl::NotFoundError(
        absl::StrCat("version \"", CleanReason(uid), "\" is not known"));
  }
  return &found->second;
}

absl::Status ModelExpressVersions::CheckRegistered(const std::string& worker_id,
                                                   const std::string& model,
                                                   mxr::WorkerRole role) const {
  const auto found = workers_.find(worker_id);
  if (found == workers_.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker \"", CleanReason(worker_id),
                     "\" is not registered, or its registration has expired"));
  }
  const mxr::WorkerRegistration& worker = found->second;
  if (worker.model_name() != model) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker \"", CleanReason(worker_id), "\" is of model \"",
                     CleanReason(worker.model_name()), "\", the version of \"",
                     CleanReason(model), "\""));
  }
  if (role != mxr::WORKER_ROLE_UNSPECIFIED && worker.role() != role) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker \"", CleanReason(worker_id),
                     "\" is no generator, as who leases a version must be"));
  }
  return absl::OkStatus();
}

absl::Status ModelExpressVersions::CheckRoom(int64_t bytes) const {
  if (held_bytes_ + bytes <= limits_.max_version_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "with ", bytes, " bytes more the catalog would hold ",
      held_bytes_ + bytes, " bytes of ModelExpress versions, more than ",
      limits_.max_version_bytes, "; delete versions that are not used"));
}

absl::StatusOr<mxr::WorkerRegistration> ModelExpressVersions::RegisterWorker(
    const mxr::RegisterWorkerRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_RETURN_IF_ERROR(CheckRefitRequest(request));
  const std::string& id = request.worker().worker_id();
  const auto found = workers_.find(id);
  if (found == workers_.end()) {
    if (static_cast<int64_t>(workers_.size()) >= limits_.max_workers) {
      return absl::ResourceExhaustedError(
          absl::StrCat(workers_.size(),
                       " ModelExpress workers are registered, "
                       "as many as may be"));
    }
  } else if (found->second.role() != request.worker().role() ||
             found->second.model_name() != request.worker().model_name()) {
    return absl::AlreadyExistsError(absl::StrCat(
        "worker \"", CleanReason(id), "\" is registered with model \"",
        CleanReason(found->second.model_name()), "\" and role ",
        found->second.role(), ", not \"",
        CleanReason(request.worker().model_name()), "\" and ",
        request.worker().role()));
  }
  const int64_t expires_ms = now_ms + int64_t{request.ttl_seconds()} * 1000;
  mxr::WorkerRegistration worker;
  worker.set_worker_id(id);
  worker.set_role(request.worker().role());
  worker.set_model_name(request.worker().model_name());
  worker.set_expires_at_unix_ms(static_cast<uint64_t>(expires_ms));
  workers_[id] = worker;
  due_.Set(WorkerKey{id}, expires_ms);
  return worker;
}

absl::Status ModelExpressVersions::CheckBase(
    const mxr::CreateWeightVersionRequest& request) {
  if (!request.has_base_version_id()) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const Version* base, Find(request.base_version_id()));
  if (base->message.state() != kReady ||
      base->message.model_name() != request.model_name()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "base ", Named(base->message), " is ", StateName(base->message.state()),
        " and of model \"", CleanReason(base->message.model_name()),
        "\", not READY and of \"", CleanReason(request.model_name()), "\""));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ModelExpressVersions::FreeUid(
    const mxr::CreateWeightVersionRequest& request) {
  if (request.has_uid()) {
    if (versions_.count(request.uid()) == 0) return request.uid();
    return absl::AlreadyExistsError(absl::StrCat(
        "version \"", CleanReason(request.uid()), "\" exists already"));
  }
  for (int i = 0; i < 5; ++i) {
    std::string uid = new_uid_();
    if (versions_.count(uid) == 0) return uid;
  }
  return absl::ResourceExhaustedError(
      "five random uids were all taken by other versions");
}

absl::StatusOr<mxr::WeightVersion> ModelExpressVersions::Create(
    const mxr::CreateWeightVersionRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_RETURN_IF_ERROR(CheckRefitRequest(request));
  const std::pair<std::string, std::string> key(request.model_name(),
                                                request.idempotency_key());
  // Before the base is looked at: it may have gone since the first request.
  if (const auto made = uid_of_request_.find(key);
      made != uid_of_request_.end()) {
    const Version& version = versions_.at(made->second);
    if (SameRequest(version.message, version.initial_state, request)) {
      return version.message;
    }
    return absl::AlreadyExistsError(absl::StrCat(
        "idempotency_key \"", CleanReason(request.idempotency_key()),
        "\" stands for ", Named(version.message),
        ", which was asked for otherwise"));
  }
  WEFT_RETURN_IF_ERROR(CheckBase(request));
  if (count() >= limits_.max_versions) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the catalog holds ", count(), " ModelExpress versions, as many as it ",
        "may; delete versions that are not used"));
  }
  WEFT_ASSIGN_OR_RETURN(const std::string uid, FreeUid(request));
  Version version;
  version.initial_state = request.state();
  version.expected = {request.expected_source_slots().begin(),
                      request.expected_source_slots().end()};
  mxr::WeightVersion& message = version.message;
  message.set_uid(uid);
  message.set_model_name(request.model_name());
  message.set_idempotency_key(request.idempotency_key());
  message.set_payload_format(request.payload_format());
  if (request.has_base_version_id()) {
    message.set_base_version_id(request.base_version_id());
  }
  *message.mutable_expected_source_slots() = request.expected_source_slots();
  message.set_state(request.state());
  message.set_created_at_unix_ms(static_cast<uint64_t>(now_ms));
  if (request.has_object_storage()) {
    message.mutable_object_storage()->set_uri(request.object_storage().uri());
    message.mutable_object_storage()->set_storage_type(
        request.object_storage().storage_type());
  }
  WEFT_RETURN_IF_ERROR(CheckRoom(BytesOf(message)));
  held_bytes_ += BytesOf(message);
  uid_of_request_[key] = uid;
  const Version& made = versions_[uid] = std::move(version);
  SetIdleTime(made, now_ms);
  return made.message;
}

absl::StatusOr<mxr::WeightVersion> ModelExpressVersions::Get(
    const std::string& uid, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_ASSIGN_OR_RETURN(const Version* version, Find(uid));
  return version->message;
}

absl::StatusOr<mxr::WeightVersion> ModelExpressVersions::SetState(
    const std::string& uid, mxr::WeightVersionState state, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  if (state != kStaging && state != kReady && state != kReleasing) {
    return absl::InvalidArgumentError(
        absl::StrCat("state ", static_cast<int>(state), " is unknown"));
  }
  WEFT_ASSIGN_OR_RETURN(Version * version, Find(uid));
  mxr::WeightVersion& message = version->message;
  if (message.state() == state) return message;
  if (state == kReleasing) {
    Release(*version, now_ms, "");
  } else if (state == kReady && message.has_object_storage() &&
             message.state() == kStaging) {
    message.set_state(kReady);
    SetIdleTime(*version, now_ms);
  } else {
    return absl::FailedPreconditionError(
        absl::StrCat(Named(message), " is ", StateName(message.state()),
                     " and cannot be made ", StateName(state)));
  }
  return message;
}

absl::StatusOr<mxr::CreateWeightVersionShardResponse>
ModelExpressVersions::CreateShard(const mxr::WeightVersionShard& shard,
                                  int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_RETURN_IF_ERROR(CheckRefitRequest(shard));
  WEFT_ASSIGN_OR_RETURN(Version * version, Find(shard.version_id()));
  mxr::WeightVersion& message = version->message;
  WEFT_RETURN_IF_ERROR(CheckRegistered(shard.worker_id(), message.model_name(),
                                       mxr::WORKER_ROLE_UNSPECIFIED));
  if (message.state() == kReleasing) {
    return absl::FailedPreconditionError(
        absl::StrCat(Named(message), " is RELEASING and takes no shards"));
  }
  if (version->expected.count(shard.source_slot_id()) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(Named(message), " expects no slot \"",
                     CleanReason(shard.source_slot_id()), "\""));
  }
  const std::string bytes = shard.SerializeAsString();
  const auto key = std::pair(shard.source_slot_id(), shard.worker_id());
  const auto there = version->shards.find(key);
  if (there == version->shards.end()) {
    if (shard_count_ >= limits_.max_shards) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the catalog holds ", shard_count_,
                       " ModelExpress shards, as many as it may"));
    }
    WEFT_RETURN_IF_ERROR(CheckRoom(static_cast<int64_t>(bytes.size())));
    held_bytes_ += static_cast<int64_t>(bytes.size());
    ++shard_count_;
    version->shards[key] = shard;
    ++published_by_[shard.worker_id()][message.uid()];
  } else if (there->second.SerializeAsString() != bytes) {
    return absl::AlreadyExistsError(absl::StrCat(
        "worker \"", CleanReason(shard.worker_id()), "\" has published slot \"",
        CleanReason(shard.source_slot_id()), "\" of ", Named(message),
        " with other contents"));
  }
  if (message.state() == kStaging && !MissingSlot(*version)) {
    message.set_state(kReady);
  }
  SetIdleTime(*version, now_ms);
  mxr::CreateWeightVersionShardResponse response;
  *response.mutable_shard() = shard;
  *response.mutable_version() = message;
  return response;
}

absl::StatusOr<mxr::ListWeightVersionShardsResponse>
ModelExpressVersions::ListShards(const std::string& uid, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_ASSIGN_OR_RETURN(const Version* version, Find(uid));
  mxr::ListWeightVersionShardsResponse response;
  int64_t bytes = 0;
  for (const auto& [key, shard] : version->shards) {
    if (!Serves(key.second, *version)) continue;
    bytes += static_cast<int64_t>(shard.ByteSizeLong()) + 8;
    if (bytes > limits_.max_reply_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          version->shards.size(), " shards of ", Named(version->message),
          " do not fit into a reply of ", limits_.max_reply_bytes, " bytes"));
    }
    *response.add_shards() = shard;
  }
  return response;
}

absl::Status ModelExpressVersions::DeleteShard(
    const mxr::DeleteWeightVersionShardRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_RETURN_IF_ERROR(CheckRefitRequest(request));
  WEFT_ASSIGN_OR_RETURN(Version * version, Find(request.version_id()));
  const mxr::WeightVersion& message = version->message;
  const auto shard = version->shards.find(
      std::pair(request.source_slot_id(), request.worker_id()));
  if (shard == version->shards.end()) {
    return absl::NotFoundError(absl::StrCat(
        "worker \"", CleanReason(request.worker_id()), "\" has no slot \"",
        CleanReason(request.source_slot_id()), "\" of ", Named(message)));
  }
  WEFT_RETURN_IF_ERROR(CheckRegistered(
      request.worker_id(), message.model_name(), mxr::WORKER_ROLE_UNSPECIFIED));
  if (message.state() != kReleasing) {
    return absl::FailedPreconditionError(
        absl::StrCat(Named(message), " is ", StateName(message.state()),
                     ", not RELEASING: its shards are still wanted"));
  }
  if (!version->leases.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(Named(message), " has ", version->leases.size(),
                     " leases: its shards may be read right now"));
  }
  DropShard(*version, request.source_slot_id(), request.worker_id());
  return absl::OkStatus();
}

absl::StatusOr<mxr::VersionLease> ModelExpressVersions::Lease(
    const mxr::RegisterVersionLeaseRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_RETURN_IF_ERROR(CheckRefitRequest(request));
  WEFT_ASSIGN_OR_RETURN(Version * version, Find(request.version_id()));
  const mxr::WeightVersion& message = version->message;
  WEFT_RETURN_IF_ERROR(CheckRegistered(
      request.worker_id(), message.model_name(), mxr::WORKER_ROLE_GENERATOR));
  const std::string id =
      ModelExpressLeaseId(request.version_id(), request.worker_id());
  const auto held = version->leases.find(id);
  if (held == version->leases.end()) {
    if (message.state() != kReady) {
      return absl::FailedPreconditionError(
          absl::StrCat(Named(message), " is ", StateName(message.state()),
                       ", not READY: it cannot be leased anew"));
    }
    if (lease_count_ >= limits_.max_leases) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the catalog holds ", lease_count_,
                       " ModelExpress leases, as many as it may"));
    }
    ++lease_count_;
  } else if (held->second.worker_id() != request.worker_id()) {
    return absl::AlreadyExistsError(absl::StrCat(
        "lease ", id, " on ", Named(message), " is of worker \"",
        CleanReason(held->second.worker_id()), "\", whose name gives the same ",
        "32-bit id; start this worker anew under another name"));
  } else if (message.state() == kStaging) {
    return absl::FailedPreconditionError(
        absl::StrCat(Named(message), " is STAGING"));
  }
  const int64_t expires_ms = now_ms + int64_t{request.ttl_seconds()} * 1000;
  mxr::VersionLease& lease = version->leases[id];
  lease.set_lease_id(id);
  lease.set_version_id(request.version_id());
  lease.set_worker_id(request.worker_id());
  lease.set_expires_at_unix_ms(static_cast<uint64_t>(expires_ms));
  due_.Set(LeaseKey{message.uid(), id}, expires_ms);
  SetIdleTime(*version, now_ms);
  return lease;
}

absl::StatusOr<bool> ModelExpressVersions::DeleteLease(
    const mxr::DeleteVersionLeaseRequest& request, int64_t now_ms) {
  DoWhatIsDue(now_ms);
  WEFT_RETURN_IF_ERROR(CheckRefitRequest(request));
  const auto version = versions_.find(request.version_id());
  if (version == versions_.end()) return false;
  auto& leases = version->second.leases;
  const auto lease = leases.find(request.lease_id());
  if (lease == leases.end()) return false;
  if (lease->second.worker_id() != request.worker_id()) {
    return absl::FailedPreconditionError(
        absl::StrCat("lease ", request.lease_id(), " is of worker \"",
                     CleanReason(lease->second.worker_id()), "\", not \"",
                     CleanReason(request.worker_id()), "\""));
  }
  leases.erase(lease);
  --lease_count_;
  due_.Clear(LeaseKey{request.version_id(), request.lease_id()});
  SetIdleTime(version->second, now_ms);
  return true;
}

}  // namespace weft::catalog
