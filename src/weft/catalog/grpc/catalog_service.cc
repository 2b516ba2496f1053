#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/deadline.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/catalog_service_internal.h"
#include "weft/catalog/grpc/catalog_streams_internal.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

// For calls of streams: the store answers at once but for BeginUpdate, and the
// client watches its own deadline.
base::Deadline AtOnce() { return base::Deadline::Infinite(); }

// A little before the client gives up: a store that waits for something, as one
// on Redis does, knows what for, and the client does not.
base::Deadline BeforeEndOf(const grpc::ServerContext* context) {
  using Clock = std::chrono::system_clock;
  if (context == nullptr) return base::Deadline::Infinite();
  const Clock::time_point end = context->deadline();
  if (end == Clock::time_point::max()) return base::Deadline::Infinite();
  const std::chrono::nanoseconds left = end - Clock::now();
  return base::Deadline::After(left -
                               std::min<std::chrono::nanoseconds>(
                                   left / 10, std::chrono::milliseconds(500)));
}

// A reader of events holds a thread while it waits.
constexpr int kMostWaitingReaders = 64;
constexpr std::chrono::nanoseconds kLongestEventWait = std::chrono::seconds(30);
// How late the end of the call or of the server is noticed.
constexpr std::chrono::milliseconds kEventSlice(200);

absl::Status NotAttachedHere(const std::string& worker_id) {
  return absl::FailedPreconditionError(
      absl::StrCat("worker \"", CleanReason(worker_id.substr(0, kMaxNameBytes)),
                   "\" is not attached through this server"));
}

}  // namespace

absl::Status CatalogService::Attached::Health() {
  const std::lock_guard lock(mutex_);
  if (attachment_ == nullptr) {
    return absl::FailedPreconditionError("the worker has been detached");
  }
  return attachment_->Health();
}

void CatalogService::Attached::End(bool abandon, bool in_order) {
  std::unique_ptr<Attachment> ended;
  {
    const std::lock_guard lock(mutex_);
    ended = std::move(attachment_);
  }
  if (ended == nullptr) return;
  if (in_order) ended->EndInOrder();
  if (abandon) ended->Abandon();
}

absl::StatusOr<std::shared_ptr<CatalogService::Attached>>
CatalogService::AttachWorker(const std::string& worker_id,
                             uint64_t again_generation) {
  absl::StatusOr<std::unique_ptr<Attachment>> attachment =
      again_generation == 0
          ? store_->Attach(worker_id, AtOnce())
          : store_->Reattach({worker_id, again_generation}, AtOnce());
  if (!attachment.ok()) return attachment.status();
  auto attached = std::make_shared<Attached>(*std::move(attachment));
  std::shared_ptr<Attached> replaced;  // ends when no lock is held
  const std::lock_guard lock(mutex_);
  replaced = std::exchange(attached_[worker_id], attached);
  return attached;
}

void CatalogService::DetachWorker(const std::string& worker_id, bool in_order,
                                  const Attached* only) {
  std::shared_ptr<Attached> attached;
  bool abandon = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = attached_.find(worker_id);
    if (found == attached_.end()) return;
    if (only != nullptr && found->second.get() != only) return;
    attached = std::move(found->second);
    attached_.erase(found);
    abandon = stopping_;
  }
  attached->End(abandon, in_order);
}

std::shared_ptr<CatalogService::Attached> CatalogService::FindAttached(
    const std::string& worker_id) {
  const std::lock_guard lock(mutex_);
  const auto found = attached_.find(worker_id);
  return found == attached_.end() ? nullptr : found->second;
}

absl::Status CatalogService::CheckHeldHere(const std::string& worker_id) {
  if (FindAttached(worker_id) != nullptr) return absl::OkStatus();
  const auto workers = store_->ListWorkers("", AtOnce());
  if (!workers.ok()) return workers.status();
  const bool lives_elsewhere =
      std::any_of(workers->begin(), workers->end(),
                  [&worker_id](const WorkerRecord& worker) {
                    return worker.worker_id == worker_id && worker.alive;
                  });
  // A worker that does not live is for the store to refuse.
  return lives_elsewhere ? NotAttachedHere(worker_id) : absl::OkStatus();
}

void CatalogService::StopStreams() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
}

absl::Status CatalogService::CheckServing() {
  const std::lock_guard lock(mutex_);
  if (!stopping_) return absl::OkStatus();
  return absl::UnavailableError("the catalog is shutting down");
}

grpc::Status CatalogService::PutPlacement(
    grpc::ServerContext* context, const v1::PutPlacementRequest* request,
    v1::PutPlacementResponse* /*response*/) {
  const CallFacts facts{.call = "PutPlacement",
                        .any_of = kMayPublish | kMayReceive,
                        .changes = true,
                        .subject = request->digest_hex()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    return store_->PutPlacement(request->digest_hex(), request->placement(),
                                BeforeEndOf(context));
  }));
}

grpc::Status CatalogService::GetPlacement(
    grpc::ServerContext* context, const v1::GetPlacementRequest* request,
    v1::GetPlacementResponse* response) {
  const CallFacts facts{.call = "GetPlacement",
                        .any_of = kMayPublish | kMayReceive,
                        .subject = request->digest_hex()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    absl::StatusOr<std::string> placement =
        store_->GetPlacement(request->digest_hex(), BeforeEndOf(context));
    if (!placement.ok()) return placement.status();
    response->set_placement(*std::move(placement));
    return absl::OkStatus();
  }));
}

grpc::Status CatalogService::Register(grpc::ServerContext* context,
                                      const v1::RegisterRequest* request,
                                      v1::RegisterResponse* response) {
  WorkerInfo info = FromWire(request->info());
  const CallFacts facts{
      .call = "Register",
      .any_of = info.role == Role::kReceiver ? kMayReceive : kMayPublish,
      .changes = true,
      .model = info.model};
  return ToWireStatus(
      Guard(context, facts, [&](const std::string& owner, CallFacts& known) {
        info.owner = owner;
        const absl::StatusOr<Registration> registration =
            store_->Register(info, request->binding(), BeforeEndOf(context));
        if (!registration.ok()) return registration.status();
        known.worker = registration->worker_id;
        response->set_worker_id(registration->worker_id);
        response->set_generation(registration->generation);
        return absl::OkStatus();
      }));
}

grpc::ServerWriteReactor<v1::AttachResponse>* CatalogService::Attach(
    grpc::CallbackServerContext* context, const v1::AttachRequest* request) {
  const CallFacts facts{.call = "Attach",
                        .any_of = kMayPublish | kMayReceive,
                        .changes = true,
                        .worker = request->worker_id()};
  std::shared_ptr<Attached> attached;
  const absl::Status status =
      Guard(context, facts, [&](const auto&, auto&) -> absl::Status {
        WEFT_RETURN_IF_ERROR(CheckServing());
        WEFT_ASSIGN_OR_RETURN(
            attached,
            AttachWorker(request->worker_id(), request->again_generation()));
        return absl::OkStatus();
      });
  if (!status.ok()) {
    return StartAttachStream(*this, request->worker_id(), status);
  }
  return StartAttachStream(*this, request->worker_id(), std::move(attached));
}

grpc::Status CatalogService::Detach(grpc::ServerContext* context,
                                    const v1::DetachRequest* request,
                                    v1::DetachResponse* /*response*/) {
  const CallFacts facts{.call = "Detach",
                        .any_of = kMayPublish | kMayReceive,
                        .changes = true,
                        .worker = request->worker_id()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    DetachWorker(request->worker_id(), request->in_order());
    return absl::OkStatus();
  }));
}

grpc::Status CatalogService::GetHealth(grpc::ServerContext* context,
                                       const v1::GetHealthRequest* request,
                                       v1::GetHealthResponse* /*response*/) {
  const CallFacts facts{.call = "GetHealth",
                        .any_of = kMayPublish | kMayReceive,
                        .worker = request->worker_id()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    const auto attached = FindAttached(request->worker_id());
    return attached == nullptr ? NotAttachedHere(request->worker_id())
                               : attached->Health();
  }));
}

grpc::Status CatalogService::PublishShard(
    grpc::ServerContext* context, const v1::PublishShardRequest* request,
    v1::PublishShardResponse* response) {
  const CallFacts facts{.call = "PublishShard",
                        .any_of = kMayPublish,
                        .changes = true,
                        .worker = request->worker_id(),
                        .subject = absl::StrCat("step ", request->step())};
  return ToWireStatus(Guard(context, facts, [&](const auto&, CallFacts& known) {
    const absl::StatusOr<VersionRecord> record =
        request->again()
            ? store_->RepublishShard(request->worker_id(), request->step(),
                                     BeforeEndOf(context))
            : store_->PublishShard(request->worker_id(), request->step(),
                                   BeforeEndOf(context));
    if (!record.ok()) return record.status();
    known.model = record->model;
    ToWire(*record, *response->mutable_record());
    return absl::OkStatus();
  }));
}

grpc::Status CatalogService::BeginUpdate(grpc::ServerContext* context,
                                         const v1::BeginUpdateRequest* request,
                                         v1::BeginUpdateResponse* response) {
  const CallFacts facts{.call = "BeginUpdate",
                        .any_of = kMayPublish,
                        .changes = true,
                        .worker = request->worker_id()};
  return ToWireStatus(
      Guard(context, facts, [&](const auto&, auto&) -> absl::Status {
        WEFT_RETURN_IF_ERROR(CheckHeldHere(request->worker_id()));
        const base::Deadline revoke_after = base::Deadline::After(
            std::chrono::nanoseconds(request->revoke_after_ns()));
        WEFT_ASSIGN_OR_RETURN(
            const int64_t revoked,
            store_->BeginUpdate(request->worker_id(), revoke_after));
        response->set_revoked_leases(revoked);
        return absl::OkStatus();
      }));
}

grpc::ServerWriteReactor<v1::WatchVersionsResponse>*
CatalogService::WatchVersions(grpc::CallbackServerContext* context,
                              const v1::WatchVersionsRequest* request) {
  const CallFacts facts{.call = "WatchVersions",
                        .any_of = kMayPublish | kMayReceive | kMayRead,
                        .model = request->model()};
  std::shared_ptr<void> counted;
  std::unique_ptr<VersionWatch> watch;
  const absl::Status status =
      Guard(context, facts, [&](const auto&, auto&) -> absl::Status {
        WEFT_RETURN_IF_ERROR(CheckServing());
        WEFT_ASSIGN_OR_RETURN(counted, CountWatch());
        WEFT_ASSIGN_OR_RETURN(
            watch, store_->WatchVersions(request->model(), AtOnce()));
        return absl::OkStatus();
      });
  if (!status.ok()) return StartWatchStream(status, nullptr);
  return StartWatchStream(std::move(watch), std::move(counted));
}

grpc::Status CatalogService::GetSources(grpc::ServerContext* context,
                                        const v1::GetSourcesRequest* request,
                                        v1::GetSourcesResponse* response) {
  // With a lease the answer holds addresses and memory keys.
  const bool has_lease = !request->lease_id().empty();
  const Roles any =
      has_lease ? kMayReceive : kMayPublish | kMayReceive | kMayRead;
  const CallFacts facts{.call = "GetSources",
                        .any_of = any,
                        .changes = has_lease,
                        .worker = WorkerOfLease(request->lease_id()),
                        .model = request->model(),
                        .subject = request->lease_id()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    const absl::StatusOr<SourceSet> sources = store_->GetSources(
        request->model(), request->lease_id(), BeforeEndOf(context));
    if (!sources.ok()) return sources.status();
    response->set_source_set(sources->source_set);
    response->set_num_ranks(sources->num_ranks);
    response->set_model_card_digest_hex(sources->model_card_digest_hex);
    for (const SourceRecord& source : sources->sources) {
      ToWire(source, *response->add_sources());
    }
    return absl::OkStatus();
  }));
}

grpc::Status CatalogService::AcquireLease(
    grpc::ServerContext* context, const v1::AcquireLeaseRequest* request,
    v1::AcquireLeaseResponse* response) {
  const CallFacts facts{.call = "AcquireLease",
                        .any_of = kMayReceive,
                        .changes = true,
                        .worker = request->worker_id()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, CallFacts& known) {
    const VersionId newer_than = FromWire(request->newer_than());
    const absl::StatusOr<Lease> lease =
        request->has_version()
            ? store_->AcquireLease(request->worker_id(),
                                   FromWire(request->version()),
                                   BeforeEndOf(context))
            : store_->AcquireNewestLease(
                  request->worker_id(),
                  request->has_newer_than() ? &newer_than : nullptr,
                  BeforeEndOf(context));
    if (!lease.ok()) return lease.status();
    known.model = lease->version.model;
    known.subject =
        absl::StrCat(lease->lease_id, " on ", ToString(lease->version.version));
    response->set_lease_id(lease->lease_id);
    response->set_lasts_ns(lease->lasts.count());
    ToWire(lease->version, *response->mutable_version());
    return absl::OkStatus();
  }));
}

grpc::Status CatalogService::RenewLease(grpc::ServerContext* context,
                                        const v1::RenewLeaseRequest* request,
                                        v1::RenewLeaseResponse* /*response*/) {
  const CallFacts facts{.call = "RenewLease",
                        .any_of = kMayReceive,
                        .changes = true,
                        .worker = WorkerOfLease(request->lease_id()),
                        .subject = request->lease_id()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    return store_->RenewLease(request->lease_id(), BeforeEndOf(context));
  }));
}

grpc::Status CatalogService::ReleaseLease(
    grpc::ServerContext* context, const v1::ReleaseLeaseRequest* request,
    v1::ReleaseLeaseResponse* /*response*/) {
  const CallFacts facts{
      .call = "ReleaseLease",
      .any_of = kMayReceive,
      .changes = true,
      .worker = WorkerOfLease(request->lease_id()),
      .subject = absl::StrCat(request->lease_id(),
                              request->committed() ? " committed" : "")};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    return store_->ReleaseLease(request->lease_id(), request->committed(),
                                request->fenced_reason(), BeforeEndOf(context));
  }));
}

grpc::Status CatalogService::ReportServing(
    grpc::ServerContext* context, const v1::ReportServingRequest* request,
    v1::ReportServingResponse* /*response*/) {
  const VersionId committed = FromWire(request->committed());
  const bool serves = request->has_committed();
  const CallFacts facts{.call = "ReportServing",
                        .any_of = kMayReceive,
                        .changes = true,
                        .worker = request->worker_id(),
                        .subject = serves ? ToString(committed) : "fenced"};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    return store_->ReportServing(
        request->worker_id(), serves ? &committed : nullptr,
        request->fenced_reason(), BeforeEndOf(context));
  }));
}

grpc::Status CatalogService::ListVersions(
    grpc::ServerContext* context, const v1::ListVersionsRequest* request,
    v1::ListVersionsResponse* response) {
  const CallFacts facts{.call = "ListVersions",
                        .any_of = kMayPublish | kMayReceive | kMayRead,
                        .model = request->model()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    const auto records =
        store_->ListVersions(request->model(), BeforeEndOf(context));
    if (!records.ok()) return records.status();
    for (const VersionRecord& record : *records) {
      ToWire(record, *response->add_records());
    }
    return absl::OkStatus();
  }));
}

grpc::Status CatalogService::ListWorkers(grpc::ServerContext* context,
                                         const v1::ListWorkersRequest* request,
                                         v1::ListWorkersResponse* response) {
  const CallFacts facts{.call = "ListWorkers",
                        .any_of = kMayPublish | kMayReceive | kMayRead,
                        .model = request->model()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    const auto records =
        store_->ListWorkers(request->model(), BeforeEndOf(context));
    if (!records.ok()) return records.status();
    for (const WorkerRecord& record : *records) {
      ToWire(record, *response->add_records());
    }
    return absl::OkStatus();
  }));
}

grpc::Status CatalogService::ListLeases(grpc::ServerContext* context,
                                        const v1::ListLeasesRequest* request,
                                        v1::ListLeasesResponse* response) {
  const CallFacts facts{.call = "ListLeases",
                        .any_of = kMayPublish | kMayReceive | kMayRead,
                        .model = request->model()};
  return ToWireStatus(Guard(context, facts, [&](const auto&, auto&) {
    const auto records =
        store_->ListLeases(request->model(), BeforeEndOf(context));
    if (!records.ok()) return records.status();
    for (const LeaseRecord& record : *records) {
      ToWire(record, *response->add_records());
    }
    return absl::OkStatus();
  }));
}

absl::StatusOr<EventPage> CatalogService::AwaitEvents(
    const grpc::ServerContext* context, EventQuery query,
    base::Deadline wait_until) {
  while (true) {
    const base::Deadline slice = base::Deadline::After(kEventSlice);
    query.wait_until = slice.when() < wait_until.when() ? slice : wait_until;
    absl::StatusOr<EventPage> page = store_->ReadEvents(query, AtOnce());
    if (!page.ok() || !page->events.empty() || page->missed > 0 ||
        page->restarted || wait_until.Passed() || context == nullptr ||
        context->IsCancelled() || !CheckServing().ok()) {
      return page;
    }
    // Events of other models are passed over.
    query.from = page->next;
    query.log_id = page->log_id;
  }
}

grpc::Status CatalogService::ReadEvents(grpc::ServerContext* context,
                                        const v1::ReadEventsRequest* request,
                                        v1::ReadEventsResponse* response) {
  const CallFacts facts{.call = "ReadEvents",
                        .any_of = kMayPublish | kMayReceive | kMayRead,
                        .model = request->model()};
  const base::Deadline wait_until = base::Deadline::After(std::min(
      std::chrono::nanoseconds(request->wait_ns()), kLongestEventWait));
  return ToWireStatus(
      Guard(context, facts, [&](const auto&, auto&) -> absl::Status {
        std::shared_ptr<void> counted;
        if (request->wait_ns() > 0) {
          WEFT_ASSIGN_OR_RETURN(counted, CountWaitingReader());
        }
        WEFT_ASSIGN_OR_RETURN(const EventPage page,
                              AwaitEvents(context,
                                          {.from = request->from(),
                                           .log_id = request->log_id(),
                                           .model = request->model(),
                                           .max_events = request->max_events()},
                                          wait_until));
        response->set_log_id(page.log_id);
        response->set_missed(page.missed);
        response->set_restarted(page.restarted);
        response->set_next(page.next);
        response->set_end(page.end);
        for (const Event& event : page.events) {
          ToWire(event, *response->add_events());
        }
        return absl::OkStatus();
      }));
}

absl::StatusOr<std::shared_ptr<void>> CatalogService::CountWaitingReader() {
  const std::lock_guard lock(mutex_);
  if (waiting_readers_ >= kMostWaitingReaders) {
    return absl::ResourceExhaustedError(absl::StrCat(
        kMostWaitingReaders, " readers wait for events of this server"));
  }
  ++waiting_readers_;
  return std::shared_ptr<void>(nullptr, [this](void*) {
    const std::lock_guard ending(mutex_);
    --waiting_readers_;
  });
}

}  // namespace weft::catalog
