#include "weft/session/receiver.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "weft/base/log.h"
#include "weft/base/status.h"
#include "weft/manifest/packed_bytes.h"
#include "weft/plan/stages.h"
#include "weft/session/bound_internal.h"
#include "weft/session/latch_internal.h"
#include "weft/session/shadow_set_internal.h"
#include "weft/session/source_link_internal.h"
#include "weft/session/transfer_internal.h"
#include "weft/topology/host.h"

namespace weft::session {
namespace {

using std::chrono::steady_clock;

double SecondsBetween(steady_clock::time_point from,
                      steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// As the catalog gave it, checked.
struct FetchedPlacement {
  manifest::LayoutDigest digest;
  manifest::Placement placement;
};

struct StagedPlan {
  plan::StagedTarget staged;
  plan::Plan plan;  // for staged.placement
};

// Everything that belongs to one set of sources: made by Prepare, used by
// every refit until the set changes. Members in order of dependence.
struct Prepared {
  uint64_t source_set = 0;
  // Of the sources, in their order.
  std::vector<std::shared_ptr<const FetchedPlacement>> placements;
  std::shared_ptr<const plan::SourceIndex> index;
  std::shared_ptr<const StagedPlan> planned;
  std::vector<std::unique_ptr<SourceLink>> links;  // one a plan peer, in order
  // By the set of memory that they write; the second one is made when it is
  // needed.
  std::array<std::unique_ptr<Transfer>, 2> transfers;
  Bound bound;
};

// "a.b" of "a.b.c"; "" of "a".
std::string_view ModuleOf(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? "" : name.substr(0, dot);
}

absl::Status PlanRefused(absl::Status status) {
  status.SetPayload(kPlanRefusedPayload, absl::Cord());
  return status;
}

class ReceiverImpl : public Receiver {
 public:
  explicit ReceiverImpl(ReceiverOptions options)
      : options_(std::move(options)) {}

  absl::Status Start(base::Deadline deadline) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        manifest::CheckPlacement(options_.placement, /*is_target=*/true),
        absl::StrCat("rank ", options_.placement.rank)));
    WEFT_RETURN_IF_ERROR(CheckRankMemory(options_.placement, options_.memory));
    const std::string canonical = manifest::EncodePlacement(options_.placement);
    target_digest_ = manifest::DigestOf(canonical);
    WEFT_ASSIGN_OR_RETURN(latch_, Latch::Open(options_.state_file,
                                              options_.model, target_digest_));
    if (options_.mode == ReceiveMode::kShadow) {
      WEFT_ASSIGN_OR_RETURN(shadow_, ShadowSet::Make(options_));
    } else if (latch_->last_life().has_value()) {
      begun_ = latch_->last_life()->version;
    }
    const std::string packed = manifest::PackBytes(canonical);
    const std::string packed_digest_hex = manifest::DigestOf(packed).ToHex();
    WEFT_RETURN_IF_ERROR(
        options_.catalog->PutPlacement(packed_digest_hex, packed, deadline));
    catalog::WorkerInfo info;
    info.model = options_.model;
    info.role = catalog::Role::kReceiver;
    info.layout_spec = options_.placement.layout_spec;
    info.rank = options_.placement.rank;
    info.num_ranks = options_.placement.num_ranks;
    WEFT_ASSIGN_OR_RETURN(const topology::HostId host,
                          topology::ReadHostId("/proc"));
    host_id_ = host.ToString();
    info.host_id = host_id_;
    info.process_id = getpid();
    info.placement_digest_hex = packed_digest_hex;
    WEFT_ASSIGN_OR_RETURN(registration_,
                          options_.catalog->Register(info, "", deadline));
    WEFT_ASSIGN_OR_RETURN(attachment_, options_.catalog->Attach(
                                           registration_.worker_id, deadline));
    latch_->SetGeneration(registration_.generation);
    if (latch_->last_life().has_value() && latch_->last_life()->dirty) {
      return options_.catalog->ReportServing(registration_.worker_id, nullptr,
                                             latch_->reason(), deadline);
    }
    return absl::OkStatus();
  }

  absl::Status Prepare(base::Deadline deadline) override {
    WEFT_ASSIGN_OR_RETURN(
        const catalog::SourceSet set,
        options_.catalog->GetSources(options_.model, deadline));
    return PrepareFor(set, deadline);
  }

  absl::StatusOr<RefitReport> Refit(const catalog::VersionId* version,
                                    bool newer,
                                    base::Deadline deadline) override {
    absl::StatusOr<RefitReport> report = RefitOnce(version, newer, deadline);
    if (report.ok()) {
      ++counters_.refits_committed;
    } else {
      ++counters_.refits_failed;
    }
    return report;
  }

  absl::StatusOr<RollbackReport> Rollback(base::Deadline deadline) override;

  bool fenced() const override { return latch_->fenced(); }
  std::string fenced_reason() const override { return latch_->reason(); }
  const std::optional<catalog::VersionId>& committed() const override {
    return committed_;
  }
  ReceiverCounters counters() const override { return counters_; }
  const plan::Plan* plan() const override {
    return prepared_ == nullptr ? nullptr : &prepared_->planned->plan;
  }
  std::string Explain(const plan::ExplainOptions& options,
                      bool json) const override {
    if (prepared_ == nullptr) return "";
    plan::ExplainOptions with_link = options;
    if (with_link.link_bytes_per_second == 0) {
      with_link.link_bytes_per_second = prepared_->bound.bytes_per_second;
    }
    const StagedPlan& planned = *prepared_->planned;
    return json ? plan::ExplainPlanJson(planned.plan, *prepared_->index,
                                        planned.staged.placement, with_link)
                : plan::ExplainPlan(planned.plan, *prepared_->index,
                                    planned.staged.placement, with_link);
  }

 private:
  absl::StatusOr<RefitReport> RefitOnce(const catalog::VersionId* version,
                                        bool newer, base::Deadline deadline) {
    const auto start = steady_clock::now();
    WEFT_ASSIGN_OR_RETURN(const catalog::Lease lease,
                          TakeLease(version, newer, deadline));
    const catalog::VersionId& leased = lease.version.version;
    RefitReport report;
    report.version = leased;
    const absl::Status done = TransferUnderLease(lease, deadline, report);
    // What the second set holds is served only after the switch.
    const bool committed = done.ok() && shadow_ == nullptr;
    // A failed refit still has to give its lease back, with a moment of its
    // own if the deadline is what failed.
    const absl::Status released = options_.catalog->ReleaseLease(
        lease.lease_id, committed, done.ok() ? "" : fenced_reason(),
        done.ok() ? deadline : base::Deadline::After(std::chrono::seconds(2)));
    if (!done.ok()) return done;
    if (shadow_ != nullptr) {
      WEFT_RETURN_IF_ERROR(released);
      shadow_->EndTransfer(leased);
      const absl::StatusOr<RollbackReport> switched =
          SwitchTo(leased, deadline);
      if (!switched.ok()) {
        // What was never live is nothing to go back to.
        if (shadow_->received() == leased) shadow_->BeginTransfer();
        return switched.status();
      }
      report.pause_seconds = switched->pause_seconds;
      report.bytes_copied = switched->bytes_copied;
      report.unrecorded = switched->unrecorded;
    } else if (!released.ok()) {
      latch_->Fence(absl::StrCat(
          "the lease of ", catalog::ToString(leased),
          " could not be released: ", std::string(released.message())));
      return released;
    } else {
      committed_ = leased;
      latch_->Clear();
    }
    report.seconds = SecondsBetween(start, steady_clock::now());
    report.control_seconds = report.seconds - report.transfer_seconds -
                             report.verify_seconds - report.quantise_seconds -
                             report.pause_seconds;
    if (options_.measure_bound) UpdateBound(deadline, report);
    return report;
  }

  // One call when the version is READY. Else says at once what is wrong with
  // this receiver or the catalog, or waits.
  absl::StatusOr<catalog::Lease> TakeLease(const catalog::VersionId* version,
                                           bool newer,
                                           base::Deadline deadline) {
    const catalog::VersionId* newer_than =
        newer && committed_.has_value() ? &*committed_ : nullptr;
    absl::StatusOr<catalog::Lease> lease =
        version != nullptr ? options_.catalog->AcquireLease(
                                 registration_.worker_id, *version, deadline)
                           : options_.catalog->AcquireNewestLease(
                                 registration_.worker_id, newer_than, deadline);
    const bool not_ready = absl::IsNotFound(lease.status()) ||
                           absl::IsFailedPrecondition(lease.status());
    if (lease.ok() || !not_ready) return lease;
    WEFT_RETURN_IF_ERROR(attachment_->Health());
    WEFT_ASSIGN_OR_RETURN(
        const catalog::VersionRecord ready,
        catalog::WaitForReady(*options_.catalog, options_.model, version,
                              newer_than, deadline, options_.while_waiting));
    return options_.catalog->AcquireLease(registration_.worker_id,
                                          ready.version, deadline);
  }

  // After the refit, so that both are measured in the same minute. What was
  // fastest so far is the bound: noise only ever makes a link look slower.
  void UpdateBound(base::Deadline deadline, RefitReport& report) {
    Bound& best = prepared_->bound;
    absl::StatusOr<Bound> measured =
        MeasureBound(prepared_->links, options_.execute, deadline);
    // A source that went away after the commit takes nothing from the refit.
    if (measured.ok() && measured->bytes_per_second > best.bytes_per_second) {
      best = *std::move(measured);
    }
    report.bound_bytes_per_second = best.bytes_per_second;
    report.bound_name = best.name;
  }

  // Moves, verifies and runs the hook; leaves the latch set on failure.
  absl::Status TransferUnderLease(const catalog::Lease& lease,
                                  base::Deadline deadline,
                                  RefitReport& report) {
    const catalog::VersionId& version = lease.version.version;
    const ReceiverCounters before = counters_;
    if (prepared_ == nullptr ||
        prepared_->source_set != lease.version.source_set) {
      WEFT_RETURN_IF_ERROR(Prepare(deadline));
      if (prepared_->source_set != lease.version.source_set) {
        return absl::AbortedError(
            absl::StrCat("the sources of ", catalog::ToString(version),
                         " changed while the plan was made; refit again"));
      }
    }
    report.planned = counters_.plans_built > before.plans_built;
    report.manifests_fetched =
        counters_.manifests_fetched - before.manifests_fetched;
    const bool resume = options_.resume && begun_ == version;
    if (shadow_ != nullptr) {
      shadow_->BeginTransfer();
    } else {
      WEFT_RETURN_IF_ERROR(latch_->Set(
          version, absl::StrCat("a refit to ", catalog::ToString(version),
                                " has begun and not committed")));
    }
    begun_ = version;
    absl::Status status = MoveAndCheck(version, resume, deadline, report);
    if (!status.ok()) {
      if (shadow_ == nullptr) {
        latch_->Fence(absl::StrCat("refit to ", catalog::ToString(version),
                                   " failed: ", std::string(status.message())));
      }
      // Links to a dead peer, or with operations in flight into our memory,
      // are not used again.
      if (!absl::IsDataLoss(status) && !absl::IsAborted(status)) {
        prepared_.reset();
      }
    }
    return status;
  }

  absl::Status MoveAndCheck(const catalog::VersionId& version, bool resume,
                            base::Deadline deadline, RefitReport& report) {
    WEFT_ASSIGN_OR_RETURN(Transfer* const transfer, TransferOf(*prepared_));
    WEFT_RETURN_IF_ERROR(transfer->Run(version, resume, deadline, report));
    if (shadow_ != nullptr) return absl::OkStatus();
    WEFT_RETURN_IF_ERROR(Derive(version));
    return latch_->Record(version);
  }

  absl::Status Derive(const catalog::VersionId& version) {
    if (!options_.derive_hook) return absl::OkStatus();
    return base::Annotate(options_.derive_hook(version),
                          "hook after the transfer");
  }

  // Into the set of memory that receives now.
  absl::StatusOr<Transfer*> TransferOf(Prepared& prepared);
  // The receiving set, which holds `version`, becomes the live one.
  absl::StatusOr<RollbackReport> SwitchTo(const catalog::VersionId& version,
                                          base::Deadline deadline);
  absl::Status SwitchWhilePaused(const catalog::VersionId& version,
                                 base::Deadline deadline,
                                 RollbackReport& report);

  absl::Status PrepareFor(const catalog::SourceSet& set,
                          base::Deadline deadline);
  absl::Status FetchPlacements(const catalog::SourceSet& set, Prepared& next,
                               base::Deadline deadline);
  void AddUnknownTensors(const Prepared& next, base::FaultList& faults) const;
  absl::Status OpenLinks(const catalog::SourceSet& set, Prepared& next,
                         base::Deadline deadline);

  ReceiverOptions options_;
  std::string host_id_;
  manifest::LayoutDigest target_digest_;
  catalog::Registration registration_;
  std::unique_ptr<catalog::Attachment> attachment_;
  // Placements by digest, kept over restarts of publishers: a restarted
  // trainer of the same layout sends no manifest again.
  std::map<std::string, std::shared_ptr<const FetchedPlacement>>
      placement_cache_;
  std::unique_ptr<Latch> latch_;
  std::unique_ptr<ShadowSet> shadow_;  // null: in place
  std::unique_ptr<Prepared> prepared_;
  ReceiverCounters counters_;
  std::optional<catalog::VersionId> committed_;
  // What the receiving memory was last being brought to, in this life or, in
  // place, the last one.
  std::optional<catalog::VersionId> begun_;
};

absl::Status ReceiverImpl::PrepareFor(const catalog::SourceSet& set,
                                      base::Deadline deadline) {
  if (prepared_ != nullptr && prepared_->source_set == set.source_set) {
    return absl::OkStatus();
  }
  auto next = std::make_unique<Prepared>();
  next->source_set = set.source_set;
  WEFT_RETURN_IF_ERROR(FetchPlacements(set, *next, deadline));
  std::vector<plan::SourceInfo> infos;
  for (size_t i = 0; i < set.sources.size(); ++i) {
    infos.push_back({.placement = &next->placements[i]->placement,
                     .digest = next->placements[i]->digest,
                     .distance = set.sources[i].host_id == host_id_ ? 0 : 1});
  }
  WEFT_ASSIGN_OR_RETURN(next->index, plan::SourceIndex::Make(std::move(infos)));
  const bool same_layouts = prepared_ != nullptr &&
                            prepared_->index->digest() == next->index->digest();
  if (same_layouts) {
    next->planned = prepared_->planned;
  } else {
    auto planned = std::make_shared<StagedPlan>();
    WEFT_ASSIGN_OR_RETURN(planned->staged,
                          StageForTransfer(*next->index, options_));
    absl::StatusOr<plan::Plan> built = plan::BuildStagedPlan(
        *next->index, planned->staged.placement, planned->staged.steps,
        target_digest_, options_.limits);
    base::FaultList faults;
    if (!built.ok()) faults.Add(std::string(built.status().message()));
    AddUnknownTensors(*next, faults);
    if (!faults.empty()) {
      return PlanRefused(
          faults.ToStatus(built.ok() ? absl::StatusCode::kFailedPrecondition
                                     : built.status().code()));
    }
    planned->plan = *std::move(built);
    next->planned = std::move(planned);
    ++counters_.plans_built;
  }
  WEFT_RETURN_IF_ERROR(OpenLinks(set, *next, deadline));
  WEFT_RETURN_IF_ERROR(TransferOf(*next).status());
  prepared_ = std::move(next);
  return absl::OkStatus();
}

absl::Status ReceiverImpl::FetchPlacements(const catalog::SourceSet& set,
                                           Prepared& next,
                                           base::Deadline deadline) {
  for (const catalog::SourceRecord& source : set.sources) {
    const std::string& digest = source.placement_digest_hex;
    auto cached = placement_cache_.find(digest);
    if (cached == placement_cache_.end()) {
      WEFT_ASSIGN_OR_RETURN(const std::string packed,
                            options_.catalog->GetPlacement(digest, deadline));
      if (manifest::DigestOf(packed).ToHex() != digest) {
        return absl::DataLossError(
            absl::StrCat("the catalog returned other bytes for placement ",
                         digest, " of publisher rank ", source.rank));
      }
      absl::StatusOr<std::string> bytes = manifest::UnpackBytes(packed);
      WEFT_RETURN_IF_ERROR(base::Annotate(
          bytes.status(), absl::StrCat("publisher rank ", source.rank)));
      absl::StatusOr<manifest::Placement> placement =
          manifest::DecodePlacement(*bytes);
      if (placement.ok()) {
        WEFT_RETURN_IF_ERROR(base::Annotate(
            manifest::CheckPlacement(*placement, /*is_target=*/false),
            absl::StrCat("publisher rank ", source.rank)));
      }
      WEFT_RETURN_IF_ERROR(base::Annotate(
          placement.status(), absl::StrCat("publisher rank ", source.rank)));
      cached =
          placement_cache_
              .emplace(digest, std::make_shared<const FetchedPlacement>(
                                   FetchedPlacement{manifest::DigestOf(*bytes),
                                                    *std::move(placement)}))
              .first;
      ++counters_.manifests_fetched;
    }
    next.placements.push_back(cached->second);
  }
  return absl::OkStatus();
}

void ReceiverImpl::AddUnknownTensors(const Prepared& next,
                                     base::FaultList& faults) const {
  if (options_.known_tensors.empty()) return;
  absl::flat_hash_set<std::string_view> known;
  absl::flat_hash_set<std::string_view> modules;
  for (const std::string& name : options_.known_tensors) {
    known.insert(name);
    for (std::string_view module = ModuleOf(name); !module.empty();
         module = ModuleOf(module)) {
      modules.insert(module);
    }
  }
  std::set<std::string> unknown;
  for (const auto& fetched : next.placements) {
    for (const tensor::TensorSpec& tensor : fetched->placement.tensors) {
      const std::string_view holder = ModuleOf(ModuleOf(tensor.name));
      if (!known.contains(tensor.name) && modules.contains(holder)) {
        unknown.insert(tensor.name);
      }
    }
  }
  for (const std::string& name : unknown) {
    faults.Add(absl::StrCat(
        "the trainer publishes \"", name,
        "\", which this model does not have: it would be served without"));
  }
}

absl::Status ReceiverImpl::OpenLinks(const catalog::SourceSet& set,
                                     Prepared& next, base::Deadline deadline) {
  for (const plan::PeerPlan& peer : next.planned->plan.peers) {
    const auto source = std::find_if(
        set.sources.begin(), set.sources.end(),
        [&](const auto& each) { return each.rank == peer.src_rank; });
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<SourceLink> link,
        SourceLink::Open(*source, options_.transports, deadline));
    const manifest::Placement& placement =
        next.placements[source - set.sources.begin()]->placement;
    if (link->binding().stored.size() != placement.stored.size()) {
      return absl::DataLossError(absl::StrCat(
          "publisher rank ", peer.src_rank, " binds ",
          link->binding().stored.size(), " stored tensors, its placement has ",
          placement.stored.size()));
    }
    ++counters_.connections_opened;
    next.links.push_back(std::move(link));
  }
  return absl::OkStatus();
}

absl::StatusOr<Transfer*> ReceiverImpl::TransferOf(Prepared& prepared) {
  const size_t set = shadow_ == nullptr ? 0 : shadow_->receiving();
  std::unique_ptr<Transfer>& transfer = prepared.transfers[set];
  if (transfer == nullptr) {
    const RankMemory& memory =
        shadow_ == nullptr ? options_.memory : shadow_->receiving_memory();
    WEFT_ASSIGN_OR_RETURN(transfer,
                          Transfer::Make({.options = options_,
                                          .memory = memory,
                                          .index = *prepared.index,
                                          .plan = prepared.planned->plan,
                                          .staged = prepared.planned->staged,
                                          .links = prepared.links}));
  }
  return transfer.get();
}

absl::StatusOr<RollbackReport> ReceiverImpl::SwitchTo(
    const catalog::VersionId& version, base::Deadline deadline) {
  RollbackReport report;
  report.version = version;
  if (options_.shadow.pause) {
    WEFT_RETURN_IF_ERROR(
        base::Annotate(options_.shadow.pause(), "hook that pauses the engine"));
  }
  const auto paused = steady_clock::now();
  const absl::Status switched = SwitchWhilePaused(version, deadline, report);
  if (!switched.ok()) {
    latch_->Fence(absl::StrCat("switch to ", catalog::ToString(version),
                               " failed: ", std::string(switched.message())));
    // There is no lease to say it with. The catalog may be what failed.
    options_.catalog
        ->ReportServing(registration_.worker_id, nullptr, fenced_reason(),
                        base::Deadline::After(std::chrono::seconds(2)))
        .IgnoreError();
    return switched;
  }
  report.pause_seconds = SecondsBetween(paused, steady_clock::now());
  const absl::Status resumed =
      options_.shadow.resume ? options_.shadow.resume() : absl::OkStatus();
  base::FaultList faults;
  for (const absl::Status& recorded :
       {latch_->Record(version),
        options_.catalog->ReportServing(registration_.worker_id, &version, "",
                                        deadline)}) {
    if (!recorded.ok()) faults.Add(std::string(recorded.message()));
  }
  report.unrecorded =
      std::string(faults.ToStatus(absl::StatusCode::kUnknown).message());
  if (!report.unrecorded.empty()) {
    base::Log(base::LogLevel::kWarning,
              absl::StrCat(
                  catalog::ToString(version),
                  " is live, but not recorded as such: ", report.unrecorded));
  }
  WEFT_RETURN_IF_ERROR(base::Annotate(resumed, "hook that resumes the engine"));
  return report;
}

absl::Status ReceiverImpl::SwitchWhilePaused(const catalog::VersionId& version,
                                             base::Deadline deadline,
                                             RollbackReport& report) {
  WEFT_RETURN_IF_ERROR(latch_->Set(
      version, absl::StrCat("a switch to ", catalog::ToString(version),
                            " has begun and not ended")));
  begun_.reset();  // the receiving set becomes another one
  WEFT_ASSIGN_OR_RETURN(report.bytes_copied, shadow_->Switch(deadline));
  WEFT_RETURN_IF_ERROR(Derive(version));
  committed_ = version;
  latch_->Clear();
  return absl::OkStatus();
}

absl::StatusOr<RollbackReport> ReceiverImpl::Rollback(base::Deadline deadline) {
  const auto start = steady_clock::now();
  if (shadow_ == nullptr) {
    return absl::FailedPreconditionError(
        "a receiver that receives in place keeps no previous version; receive "
        "into a second set of buffers");
  }
  if (!shadow_->received().has_value()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no previous version is held beside ",
        committed_.has_value() ? catalog::ToString(*committed_) : "none",
        options_.shadow.keep_previous
            ? ": there was none, or a transfer has begun since"
            : ": the receiver was not told to keep it"));
  }
  const catalog::VersionId version = *shadow_->received();
  WEFT_ASSIGN_OR_RETURN(RollbackReport report, SwitchTo(version, deadline));
  report.seconds = SecondsBetween(start, steady_clock::now());
  return report;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Receiver>> Receiver::Create(
    ReceiverOptions options, base::Deadline deadline) {
  if (options.kernels == nullptr) options.kernels = &convert::CpuKernels();
  options.execute.staging_bytes = options.limits.staging_bytes;
  auto receiver = std::make_unique<ReceiverImpl>(std::move(options));
  WEFT_RETURN_IF_ERROR(receiver->Start(deadline));
  return receiver;
}

}  // namespace weft::session
