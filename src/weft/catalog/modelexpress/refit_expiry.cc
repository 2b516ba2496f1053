// What ends by itself: registrations, leases, and the versions that live on
// them.
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/modelexpress/refit_versions_internal.h"

namespace weft::catalog {

bool ModelExpressVersions::Serves(const std::string& worker_id,
                                  const Version& version) const {
  const auto found = workers_.find(worker_id);
  return found != workers_.end() &&
         found->second.model_name() == version.message.model_name();
}

std::optional<std::string> ModelExpressVersions::MissingSlot(
    const Version& version) const {
  for (const std::string& slot : version.expected) {
    bool covered = false;
    for (auto shard = version.shards.lower_bound(std::pair(slot, ""));
         !covered && shard != version.shards.end() &&
         shard->first.first == slot;
         ++shard) {
      covered = Serves(shard->first.second, version);
    }
    if (!covered) return slot;
  }
  return std::nullopt;
}

void ModelExpressVersions::Release(Version& version, int64_t now_ms,
                                   const std::string& why) {
  version.message.set_state(mxr::WEIGHT_VERSION_STATE_RELEASING);
  SetIdleTime(version, now_ms);
  if (on_note_ && !why.empty()) {
    on_note_(absl::StrCat("ModelExpress version \"",
                          CleanReason(version.message.uid()), "\" of model \"",
                          CleanReason(version.message.model_name()),
                          "\" is RELEASING: ", why));
  }
}

void ModelExpressVersions::WithdrawShardsOf(const std::string& worker_id,
                                            int64_t now_ms) {
  const auto published = published_by_.find(worker_id);
  if (published == published_by_.end()) return;
  for (const auto& [uid, count] : published->second) {
    Version& version = versions_.at(uid);
    if (version.message.state() != mxr::WEIGHT_VERSION_STATE_READY) continue;
    const std::optional<std::string> missing = MissingSlot(version);
    if (!missing) continue;
    Release(
        version, now_ms,
        absl::StrCat("worker \"", CleanReason(worker_id),
                     "\", the last source of slot \"", CleanReason(*missing),
                     "\", let its registration expire"));
  }
}

void ModelExpressVersions::DropShard(Version& version, const std::string& slot,
                                     const std::string& worker_id) {
  const auto shard = version.shards.find(std::pair(slot, worker_id));
  held_bytes_ -= static_cast<int64_t>(shard->second.ByteSizeLong());
  --shard_count_;
  const auto published = published_by_.find(worker_id);
  const auto of_version = published->second.find(version.message.uid());
  if (--of_version->second == 0) published->second.erase(of_version);
  if (published->second.empty()) published_by_.erase(published);
  version.shards.erase(shard);
}

void ModelExpressVersions::SetIdleTime(const Version& version, int64_t now_ms) {
  // A version that is leased, or READY, lives on those who hold it.
  const VersionKey key{version.message.uid()};
  if (version.leases.empty() &&
      version.message.state() != mxr::WEIGHT_VERSION_STATE_READY) {
    due_.Set(key, now_ms + kIdleMs);
  } else {
    due_.Clear(key);
  }
}

void ModelExpressVersions::VersionIsIdle(const std::string& uid,
                                         int64_t now_ms) {
  Version& version = versions_.at(uid);
  if (version.message.state() == mxr::WEIGHT_VERSION_STATE_STAGING) {
    Release(version, now_ms,
            absl::StrCat("nothing of it was published for an hour, and ",
                         version.expected.empty()
                             ? "it was not made READY"
                             : absl::StrCat("slot \"",
                                            CleanReason(*MissingSlot(version)),
                                            "\" is missing")));
    return;
  }
  while (!version.shards.empty()) {
    const auto [slot, worker_id] = version.shards.begin()->first;
    DropShard(version, slot, worker_id);
  }
  held_bytes_ -= BytesOf(version.message);
  uid_of_request_.erase(std::pair(version.message.model_name(),
                                  version.message.idempotency_key()));
  versions_.erase(uid);
}

void ModelExpressVersions::DoWhatIsDue(int64_t now_ms) {
  while (const auto due = due_.PopDue(now_ms)) {
    const auto& [key, due_ms] = *due;
    if (const auto* worker = std::get_if<WorkerKey>(&key)) {
      workers_.erase(worker->id);
      WithdrawShardsOf(worker->id, due_ms);
    } else if (const auto* lease = std::get_if<LeaseKey>(&key)) {
      Version& version = versions_.at(lease->uid);
      version.leases.erase(lease->lease_id);
      --lease_count_;
      SetIdleTime(version, due_ms);
    } else {
      VersionIsIdle(std::get<VersionKey>(key).uid, due_ms);
    }
  }
}

}  // namespace weft::catalog
