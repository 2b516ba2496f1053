// A CatalogStore that hands every call to another: for stores that do one thing
// differently.
#ifndef WEFT_CATALOG_TESTING_FORWARDING_STORE_H_
#define WEFT_CATALOG_TESTING_FORWARDING_STORE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weft/catalog/event.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

class ForwardingStore : public CatalogStore {
 public:
  explicit ForwardingStore(std::shared_ptr<CatalogStore> inner)
      : inner_(std::move(inner)) {}

  absl::Status PutPlacement(const std::string& digest_hex,
                            const std::string& bytes,
                            base::Deadline deadline) override {
    return inner_->PutPlacement(digest_hex, bytes, deadline);
  }
  absl::StatusOr<std::string> GetPlacement(const std::string& digest_hex,
                                           base::Deadline deadline) override {
    return inner_->GetPlacement(digest_hex, deadline);
  }
  absl::StatusOr<Registration> Register(const WorkerInfo& info,
                                        const std::string& binding,
                                        base::Deadline deadline) override {
    return inner_->Register(info, binding, deadline);
  }
  absl::StatusOr<std::unique_ptr<Attachment>> Attach(
      const std::string& worker_id, base::Deadline deadline) override {
    return inner_->Attach(worker_id, deadline);
  }
  absl::StatusOr<std::unique_ptr<Attachment>> Reattach(
      const Registration& worker, base::Deadline deadline) override {
    return inner_->Reattach(worker, deadline);
  }
  absl::StatusOr<VersionRecord> PublishShard(const std::string& worker_id,
                                             uint64_t step,
                                             base::Deadline deadline) override {
    return inner_->PublishShard(worker_id, step, deadline);
  }
  absl::StatusOr<VersionRecord> RepublishShard(
      const std::string& worker_id, uint64_t step,
      base::Deadline deadline) override {
    return inner_->RepublishShard(worker_id, step, deadline);
  }
  absl::StatusOr<int64_t> BeginUpdate(const std::string& worker_id,
                                      base::Deadline revoke_after) override {
    return inner_->BeginUpdate(worker_id, revoke_after);
  }
  absl::StatusOr<std::unique_ptr<VersionWatch>> WatchVersions(
      const std::string& model, base::Deadline deadline) override {
    return inner_->WatchVersions(model, deadline);
  }
  using CatalogStore::GetSources;
  absl::StatusOr<SourceSet> GetSources(const std::string& model,
                                       const std::string& lease_id,
                                       base::Deadline deadline) override {
    return inner_->GetSources(model, lease_id, deadline);
  }
  absl::StatusOr<Lease> AcquireLease(const std::string& worker_id,
                                     const VersionId& version,
                                     base::Deadline deadline) override {
    return inner_->AcquireLease(worker_id, version, deadline);
  }
  absl::StatusOr<Lease> AcquireNewestLease(const std::string& worker_id,
                                           const VersionId* newer_than,
                                           base::Deadline deadline) override {
    return inner_->AcquireNewestLease(worker_id, newer_than, deadline);
  }
  absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                            const std::string& fenced_reason,
                            base::Deadline deadline) override {
    return inner_->ReleaseLease(lease_id, committed, fenced_reason, deadline);
  }
  absl::Status ReportServing(const std::string& worker_id,
                             const VersionId* committed,
                             const std::string& fenced_reason,
                             base::Deadline deadline) override {
    return inner_->ReportServing(worker_id, committed, fenced_reason, deadline);
  }
  absl::StatusOr<std::vector<VersionRecord>> ListVersions(
      const std::string& model, base::Deadline deadline) override {
    return inner_->ListVersions(model, deadline);
  }
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers(
      const std::string& model, base::Deadline deadline) override {
    return inner_->ListWorkers(model, deadline);
  }
  absl::StatusOr<std::vector<LeaseRecord>> ListLeases(
      const std::string& model, base::Deadline deadline) override {
    return inner_->ListLeases(model, deadline);
  }
  absl::StatusOr<EventPage> ReadEvents(const EventQuery& query,
                                       base::Deadline deadline) override {
    return inner_->ReadEvents(query, deadline);
  }

 private:
  const std::shared_ptr<CatalogStore> inner_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_TESTING_FORWARDING_STORE_H_
