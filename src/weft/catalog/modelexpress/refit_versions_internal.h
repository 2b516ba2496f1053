// Versions of weights as ModelExpress's RL clients make them: an orchestrator
// creates one and names the slots that it needs, trainers publish a shard for
// each slot, generators lease it while they read.
#ifndef WEFT_CATALOG_MODELEXPRESS_REFIT_VERSIONS_INTERNAL_H_
#define WEFT_CATALOG_MODELEXPRESS_REFIT_VERSIONS_INTERNAL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "modelexpress_refit.pb.h"
#include "weft/catalog/modelexpress/due_times_internal.h"
#include "weft/catalog/modelexpress/limits_internal.h"

namespace weft::catalog {

namespace mxr = ::model_express::refit;

// Not thread-safe. Times as in ModelExpressSources, milliseconds since 1970.
// Beyond what ModelExpress's own server does: a shard counts only while its
// worker is registered, a READY version that loses the last shard of a slot is
// RELEASING, and a version that nobody leases is not kept for ever.
class ModelExpressVersions {
 public:
  // STAGING without a new shard for so long becomes RELEASING; RELEASING
  // without a lease for so long is forgotten.
  static constexpr int64_t kIdleMs = 3'600'000;

  // `new_uid` gives eight hexadecimal digits. `on_note`, if given, gets one
  // line for each version that is withdrawn or given up.
  ModelExpressVersions(
      const ModelExpressLimits& limits, std::function<std::string()> new_uid,
      std::function<void(const std::string&)> on_note = nullptr)
      : limits_(limits),
        new_uid_(std::move(new_uid)),
        on_note_(std::move(on_note)) {}

  // kInvalidArgument; kAlreadyExists if the id has another role or model.
  absl::StatusOr<mxr::WorkerRegistration> RegisterWorker(
      const mxr::RegisterWorkerRequest& request, int64_t now_ms);

  // The same request again, by model and idempotency key, returns what there
  // is. kAlreadyExists if the key or the uid stands for something else.
  absl::StatusOr<mxr::WeightVersion> Create(
      const mxr::CreateWeightVersionRequest& request, int64_t now_ms);
  absl::StatusOr<mxr::WeightVersion> Get(const std::string& uid,
                                         int64_t now_ms);
  // STAGING -> READY of versions in object storage, STAGING or READY ->
  // RELEASING of all; to be in that state already is fine.
  // kFailedPrecondition for any other.
  absl::StatusOr<mxr::WeightVersion> SetState(const std::string& uid,
                                              mxr::WeightVersionState state,
                                              int64_t now_ms);

  // READY in the same step if no slot is missing any more.
  absl::StatusOr<mxr::CreateWeightVersionShardResponse> CreateShard(
      const mxr::WeightVersionShard& shard, int64_t now_ms);
  // Of registered workers, by slot and worker.
  absl::StatusOr<mxr::ListWeightVersionShardsResponse> ListShards(
      const std::string& uid, int64_t now_ms);
  // kFailedPrecondition unless the version is RELEASING, nobody leases it, and
  // the worker is registered.
  absl::Status DeleteShard(const mxr::DeleteWeightVersionShardRequest& request,
                           int64_t now_ms);

  absl::StatusOr<mxr::VersionLease> Lease(
      const mxr::RegisterVersionLeaseRequest& request, int64_t now_ms);
  // False if there is no such lease any more. kFailedPrecondition for another
  // worker's.
  absl::StatusOr<bool> DeleteLease(
      const mxr::DeleteVersionLeaseRequest& request, int64_t now_ms);

  int64_t count() const { return static_cast<int64_t>(versions_.size()); }
  int64_t held_bytes() const { return held_bytes_; }

 private:
  struct WorkerKey {
    std::string id;
    auto operator<=>(const WorkerKey&) const = default;
  };
  struct VersionKey {
    std::string uid;
    auto operator<=>(const VersionKey&) const = default;
  };
  struct LeaseKey {
    std::string uid, lease_id;
    auto operator<=>(const LeaseKey&) const = default;
  };
  struct Version {
    mxr::WeightVersion message;
    mxr::WeightVersionState initial_state = mxr::WEIGHT_VERSION_STATE_STAGING;
    std::set<std::string> expected;  // slots
    std::map<std::pair<std::string, std::string>, mxr::WeightVersionShard>
        shards;                                       // by slot and worker
    std::map<std::string, mxr::VersionLease> leases;  // live ones
  };

  void DoWhatIsDue(int64_t now_ms);
  absl::StatusOr<Version*> Find(const std::string& uid);
  // The registered worker, if it has that model.
  absl::Status CheckRegistered(const std::string& worker_id,
                               const std::string& model,
                               mxr::WorkerRole role) const;
  absl::Status CheckBase(const mxr::CreateWeightVersionRequest& request);
  absl::Status CheckRoom(int64_t bytes) const;
  absl::StatusOr<std::string> FreeUid(
      const mxr::CreateWeightVersionRequest& request);
  // Whether what this worker has published of the version can be read.
  bool Serves(const std::string& worker_id, const Version& version) const;
  // The first slot that nobody serves.
  std::optional<std::string> MissingSlot(const Version& version) const;
  void Release(Version& version, int64_t now_ms, const std::string& why);
  void WithdrawShardsOf(const std::string& worker_id, int64_t now_ms);
  void DropShard(Version& version, const std::string& slot,
                 const std::string& worker_id);
  void SetIdleTime(const Version& version, int64_t now_ms);
  void VersionIsIdle(const std::string& uid, int64_t now_ms);
  static int64_t BytesOf(const mxr::WeightVersion& version);

  const ModelExpressLimits limits_;
  const std::function<std::string()> new_uid_;
  const std::function<void(const std::string&)> on_note_;
  std::map<std::string, mxr::WorkerRegistration> workers_;  // live ones
  std::map<std::string, Version> versions_;
  std::map<std::pair<std::string, std::string>, std::string>
      uid_of_request_;  // by model and idempotency key
  // Uids of the versions that a worker has shards of, with their number.
  std::map<std::string, std::map<std::string, int64_t>> published_by_;
  DueTimes<std::variant<WorkerKey, VersionKey, LeaseKey>> due_;
  int64_t shard_count_ = 0;
  int64_t lease_count_ = 0;
  int64_t held_bytes_ = 0;
};

// The lease that a worker has on a version, if it has one: both sides know it.
std::string ModelExpressLeaseId(const std::string& version_id,
                                const std::string& worker_id);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_REFIT_VERSIONS_INTERNAL_H_
