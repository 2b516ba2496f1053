#include <set>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/modelexpress/limits_internal.h"
#include "weft/catalog/modelexpress/refit_checks_internal.h"

namespace weft::catalog {

namespace mxr = ::model_express::refit;

namespace {

void CheckTtl(uint32_t ttl_seconds, base::FaultList& faults) {
  if (ttl_seconds == 0 || ttl_seconds > kMxMaxTtlSeconds) {
    faults.Add(absl::StrCat("ttl_seconds ", ttl_seconds,
                            " is not between 1 and ", kMxMaxTtlSeconds));
  }
}

// s3://BUCKET/KEY
void CheckS3Uri(const std::string& uri, base::FaultList& faults) {
  CheckMxText("object_storage.uri", uri, faults);
  std::string_view rest = uri;
  const bool s3 = rest.substr(0, 5) == "s3://";
  if (s3) rest.remove_prefix(5);
  const size_t slash = rest.find('/');
  if (!s3 || slash == 0 || slash == std::string_view::npos ||
      slash + 1 == rest.size() || rest[slash + 1] == '/' ||
      rest.find_first_of("?# ") != std::string_view::npos) {
    faults.Add(absl::StrCat("object_storage.uri \"", CleanReason(uri),
                            "\" is not of the form s3://BUCKET/KEY"));
  }
}

void CheckFormat(const mxr::CreateWeightVersionRequest& request,
                 base::FaultList& faults) {
  const bool has_base = request.has_base_version_id();
  switch (request.payload_format()) {
    case mxr::WEIGHT_PAYLOAD_FORMAT_FULL_TENSOR:
      if (has_base) faults.Add("base_version_id is not for FULL_TENSOR");
      return;
    case mxr::WEIGHT_PAYLOAD_FORMAT_XOR_DELTA:
      if (!has_base) faults.Add("XOR_DELTA needs a base_version_id");
      return;
    case mxr::WEIGHT_PAYLOAD_FORMAT_FULL_HF_CHECKPOINT:
      if (has_base) faults.Add("base_version_id is not for FULL_HF_CHECKPOINT");
      if (!request.has_object_storage()) {
        faults.Add("FULL_HF_CHECKPOINT needs object_storage");
      }
      return;
    default:
      faults.Add(absl::StrCat("payload_format ", request.payload_format(),
                              " is unknown"));
  }
}

void CheckStored(const mxr::CreateWeightVersionRequest& request,
                 base::FaultList& faults) {
  const auto type = request.object_storage().storage_type();
  if (type != mxr::OBJECT_STORAGE_TYPE_S3) {
    faults.Add(absl::StrCat("object_storage.storage_type ", type,
                            " is not S3 (1), the only one that is supported"));
  }
  CheckS3Uri(request.object_storage().uri(), faults);
  if (request.expected_source_slots_size() > 0) {
    faults.Add("expected_source_slots are not for object_storage");
  }
  if (request.state() != mxr::WEIGHT_VERSION_STATE_STAGING &&
      request.state() != mxr::WEIGHT_VERSION_STATE_READY) {
    faults.Add(absl::StrCat("state ", request.state(),
                            " is not STAGING (1) or READY (2)"));
  }
}

void CheckSharded(const mxr::CreateWeightVersionRequest& request,
                  base::FaultList& faults) {
  if (request.state() != mxr::WEIGHT_VERSION_STATE_STAGING) {
    faults.Add(absl::StrCat("state ", request.state(),
                            " is not STAGING (1), where a version of workers "
                            "begins"));
  }
  const int slots = request.expected_source_slots_size();
  if (slots == 0 || slots > kMxMaxSlots) {
    faults.Add(absl::StrCat("expected_source_slots has ", slots,
                            " entries, not between 1 and ", kMxMaxSlots));
    return;
  }
  std::set<std::string_view> seen;
  for (const std::string& slot : request.expected_source_slots()) {
    CheckMxName("an entry of expected_source_slots", slot, faults);
    if (!seen.insert(slot).second) {
      faults.Add(absl::StrCat("expected_source_slots has \"", CleanReason(slot),
                              "\" twice"));
    }
  }
}

}  // namespace

absl::Status CheckRefitRequest(const mxr::RegisterWorkerRequest& request) {
  base::FaultList faults;
  const mxr::WorkerRegistration& worker = request.worker();
  CheckMxName("worker.worker_id", worker.worker_id(), faults);
  CheckMxName("worker.model_name", worker.model_name(), faults);
  if (worker.role() != mxr::WORKER_ROLE_TRAINER &&
      worker.role() != mxr::WORKER_ROLE_GENERATOR) {
    faults.Add(absl::StrCat("worker.role ", worker.role(),
                            " is not TRAINER (1) or GENERATOR (2)"));
  }
  CheckTtl(request.ttl_seconds(), faults);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::Status CheckRefitRequest(const mxr::CreateWeightVersionRequest& request) {
  base::FaultList faults;
  CheckMxName("model_name", request.model_name(), faults);
  CheckMxName("idempotency_key", request.idempotency_key(), faults);
  if (request.has_uid()) CheckMxName("uid", request.uid(), faults);
  if (request.has_base_version_id()) {
    CheckMxName("base_version_id", request.base_version_id(), faults);
  }
  CheckFormat(request, faults);
  if (request.has_object_storage()) {
    CheckStored(request, faults);
  } else {
    CheckSharded(request, faults);
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::Status CheckRefitRequest(const mxr::WeightVersionShard& shard) {
  base::FaultList faults;
  CheckMxName("shard.version_id", shard.version_id(), faults);
  CheckMxName("shard.source_slot_id", shard.source_slot_id(), faults);
  CheckMxName("shard.worker_id", shard.worker_id(), faults);
  CheckMxName("shard.manifest_digest", shard.manifest_digest(), faults);
  CheckMxName("shard.manifest_endpoint", shard.manifest_endpoint(), faults);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::Status CheckRefitRequest(
    const mxr::RegisterVersionLeaseRequest& request) {
  base::FaultList faults;
  CheckMxName("version_id", request.version_id(), faults);
  CheckMxName("worker_id", request.worker_id(), faults);
  CheckTtl(request.ttl_seconds(), faults);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::Status CheckRefitRequest(
    const mxr::DeleteWeightVersionShardRequest& request) {
  base::FaultList faults;
  CheckMxName("version_id", request.version_id(), faults);
  CheckMxName("source_slot_id", request.source_slot_id(), faults);
  CheckMxName("worker_id", request.worker_id(), faults);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::Status CheckRefitRequest(const mxr::DeleteVersionLeaseRequest& request) {
  base::FaultList faults;
  CheckMxName("version_id", request.version_id(), faults);
  CheckMxName("lease_id", request.lease_id(), faults);
  CheckMxName("worker_id", request.worker_id(), faults);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace weft::catalog
