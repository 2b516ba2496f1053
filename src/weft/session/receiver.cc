#include "weft/session/receiver.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/log.h"
#include "weft/base/status.h"
#include "weft/plan/stages.h"
#include "weft/session/bound_internal.h"
#include "weft/session/latch_internal.h"
#include "weft/session/lease_keeper_internal.h"
#include "weft/session/lost_sources_internal.h"
#include "weft/session/membership_internal.h"
#include "weft/session/plan_cache_internal.h"
#include "weft/session/prepared_sources_internal.h"
#include "weft/session/serving_internal.h"
#include "weft/session/shadow_set_internal.h"
#include "weft/session/source_choice_internal.h"
#include "weft/session/step_check_internal.h"
#include "weft/session/take_lease_internal.h"
#include "weft/session/transfer_internal.h"

namespace weft::session {
namespace {

using std::chrono::steady_clock;

double SecondsBetween(steady_clock::time_point from,
                      steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

class ReceiverImpl : public Receiver {
 public:
  explicit ReceiverImpl(ReceiverOptions options)
      : options_(std::move(options)), lease_keeper_(*options_.catalog) {}

  absl::Status Start(base::Deadline deadline) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        manifest::CheckPlacement(options_.placement, /*is_target=*/true),
        absl::StrCat("rank ", options_.placement.rank)));
    WEFT_RETURN_IF_ERROR(
        CheckTargetMemory(options_.placement, options_.memory));
    const std::string canonical = manifest::EncodePlacement(options_.placement);
    target_digest_ = manifest::DigestOf(canonical);
    WEFT_ASSIGN_OR_RETURN(latch_, Latch::Open(options_.state_file,
                                              options_.model, target_digest_));
    if (options_.mode == ReceiveMode::kShadow) {
      WEFT_ASSIGN_OR_RETURN(shadow_, ShadowSet::Make(options_));
    } else if (latch_->last_life().has_value()) {
      begun_ = latch_->last_life()->version;
    }
    WEFT_ASSIGN_OR_RETURN(
        MembershipTerms terms,
        TermsOf(options_.catalog, options_.model, catalog::Role::kReceiver,
                options_.placement, canonical));
    terms.on_new_place = [this](base::Deadline within) {
      ReportServing(within);
    };
    chooser_ =
        std::make_unique<SourceChooser>(*options_.catalog, terms.info.host_id);
    WEFT_ASSIGN_OR_RETURN(place_, Membership::Join(std::move(terms), deadline));
    if (options_.serve) serving_ = std::make_unique<Serving>(options_);
    place_->Watch(mutex_, nullptr);
    latch_->SetGeneration(place_->registration().generation);
    if (latch_->last_life().has_value() && latch_->last_life()->dirty) {
      return options_.catalog->ReportServing(place_->worker_id(), nullptr,
                                             latch_->reason(), deadline);
    }
    return absl::OkStatus();
  }

  // Addresses and keys are for those who hold a lease: when nothing is READY
  // yet, the plan is made and the links wait for the first refit.
  absl::Status Prepare(base::Deadline deadline) override {
    const std::lock_guard lock(mutex_);
    const absl::StatusOr<catalog::Lease> lease =
        place_->AcquireLease(nullptr, nullptr, deadline);
    if (!lease.ok() && !absl::IsNotFound(lease.status())) {
      return lease.status();
    }
    const absl::Status prepared =
        PrepareVersion(lease.ok() ? &*lease : nullptr, deadline);
    if (lease.ok()) {
      lease_keeper_
          .Release(*lease, /*committed=*/false, "",
                   base::Deadline::After(std::chrono::seconds(2)))
          .IgnoreError();
    }
    return prepared;
  }

  absl::StatusOr<RefitReport> Refit(const catalog::VersionId* version,
                                    bool newer,
                                    base::Deadline deadline) override {
    const std::lock_guard lock(mutex_);
    absl::StatusOr<RefitReport> report = RefitOnce(version, newer, deadline);
    ++(report.ok() ? counters_.refits_committed : counters_.refits_failed);
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
    const PhaseTimer whole(options_.on_phase, "refit");
    WEFT_ASSIGN_OR_RETURN(const catalog::Lease lease,
                          TakeLease(version, newer, deadline));
    const catalog::VersionId& leased = lease.version.version;
    RefitReport report;
    report.version = leased;
    absl::Status done = CheckStep(options_, committed_, leased);
    if (done.ok()) {
      const LeaseKeeper::Kept kept(lease_keeper_, lease);
      done = TransferUnderLease(lease, deadline, report);
    }
    // What the second set holds is served only after the switch.
    const bool committed = done.ok() && shadow_ == nullptr;
    // A failed refit still has to give its lease back, with a moment of its
    // own if the deadline is what failed.
    const absl::Status released =
        ReleaseLease(lease, committed, done.ok(), deadline);
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
    if (serving_ != nullptr) Serve(deadline, report);
    return report;
  }

  absl::Status ReleaseLease(const catalog::Lease& lease, bool committed,
                            bool done, base::Deadline deadline) {
    const PhaseTimer phase(options_.on_phase, committed ? "commit" : "release");
    return lease_keeper_.Release(
        lease, committed, done ? "" : fenced_reason(),
        done ? deadline : base::Deadline::After(std::chrono::seconds(2)));
  }

  absl::StatusOr<catalog::Lease> TakeLease(const catalog::VersionId* version,
                                           bool newer,
                                           base::Deadline deadline) {
    const PhaseTimer phase(options_.on_phase, "lease");
    WantedVersion wanted{.version = version};
    if (newer && committed_) wanted.newer_than = &*committed_;
    return TakeLeaseOf(wanted, *place_, options_, deadline);
  }

  // A catalog that knew nothing of this receiver hears what it serves.
  void ReportServing(base::Deadline deadline) {
    latch_->SetGeneration(place_->registration().generation);
    // The next commit tells it again.
    options_.catalog
        ->ReportServing(place_->worker_id(), fenced() ? nullptr : &*committed_,
                        fenced() ? fenced_reason() : "", deadline)
        .IgnoreError();
  }

  // In the same minute as the refit. This and Serve take nothing from it: it
  // has committed.
  void UpdateBound(base::Deadline deadline, RefitReport& report) {
    const PhaseTimer phase(options_.on_phase, "measure the bound");
    const absl::Status raised =
        RaiseBound(prepared_->links, options_.execute,
                   DeviceOf(options_.memory).value_or(memory::kHostMemory),
                   deadline, prepared_->bound);
    report.bound_bytes_per_second = prepared_->bound.bytes_per_second;
    report.bound_name = prepared_->bound.name;
    if (!raised.ok()) prepared_->Disconnect();
  }

  void Serve(base::Deadline deadline, RefitReport& report) {
    const auto start = steady_clock::now();
    const absl::Status served =
        serving_->Serve(report.version, report.digest, *prepared_, deadline);
    report.serving = served.ok();
    report.not_served = std::string(served.message());
    report.serve_seconds = SecondsBetween(start, steady_clock::now());
  }

  // Moves, verifies and runs the hook; leaves the latch set on failure.
  absl::Status TransferUnderLease(const catalog::Lease& lease,
                                  base::Deadline deadline,
                                  RefitReport& report) {
    const catalog::VersionId& version = lease.version.version;
    const ReceiverCounters before = counters_;
    if (prepared_ == nullptr || !prepared_->connected ||
        prepared_->source_set != lease.version.source_set) {
      WEFT_RETURN_IF_ERROR(PrepareVersion(&lease, deadline));
    }
    report.planned = counters_.plans_built > before.plans_built;
    report.manifests_fetched =
        counters_.manifests_fetched - before.manifests_fetched;
    TellNotTaken(report);
    if (serving_ != nullptr && shadow_ == nullptr) serving_->Withdraw();
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

  void TellNotTaken(RefitReport& report) {
    report.not_taken = prepared_->planned->not_taken;
    if (report.not_taken.empty() || report.not_taken == told_not_taken_) return;
    told_not_taken_ = report.not_taken;
    base::Log(base::LogLevel::kWarning,
              absl::StrCat("model \"", options_.model, "\": receiver rank ",
                           options_.placement.rank, ": ", report.not_taken));
  }

  absl::Status MoveAndCheck(const catalog::VersionId& version, bool resume,
                            base::Deadline deadline, RefitReport& report) {
    WEFT_RETURN_IF_ERROR(MoveFromAny(version, resume, deadline, report));
    if (shadow_ != nullptr) return absl::OkStatus();
    WEFT_RETURN_IF_ERROR(Derive(version));
    return latch_->Record(version);
  }

  absl::Status Derive(const catalog::VersionId& version) {
    if (!options_.derive_hook) return absl::OkStatus();
    const PhaseTimer phase(options_.on_phase, "hooks");
    return base::Annotate(options_.derive_hook(version),
                          "hook after the transfer");
  }

  // Into the set of memory that receives now.
  absl::StatusOr<Transfer*> TransferOf(PreparedSources& prepared);
  // The receiving set, which holds `version`, becomes the live one.
  absl::StatusOr<RollbackReport> SwitchTo(const catalog::VersionId& version,
                                          base::Deadline deadline);
  absl::Status SwitchWhilePaused(const catalog::VersionId& version,
                                 base::Deadline deadline,
                                 RollbackReport& report);

  // Goes on from other sources when some are lost, as long as there are some.
  absl::Status MoveFromAny(const catalog::VersionId& version, bool resume,
                           base::Deadline deadline, RefitReport& report);
  // False: nobody holds what they held.
  bool Replace(absl::Span<const LostSource> lost, base::Deadline deadline,
               RefitReport& report);
  // For those that hold what is leased; or for all publishers, without links.
  absl::Status PrepareVersion(const catalog::Lease* lease,
                              base::Deadline deadline);
  // Without the ones that cannot be reached, if that can be.
  absl::Status PrepareFor(SourceChoice choice, bool connect,
                          base::Deadline deadline);
  // `unreachable`: the rank in the plan of a source that is not there.
  absl::Status PrepareOnce(const SourceChoice& choice, bool connect,
                           std::optional<int64_t>& unreachable,
                           base::Deadline deadline);

  ReceiverOptions options_;
  manifest::LayoutDigest target_digest_;
  std::unique_ptr<SourceChooser> chooser_;
  LeaseKeeper lease_keeper_;
  std::unique_ptr<Latch> latch_;
  std::unique_ptr<ShadowSet> shadow_;  // null: in place
  PlanCache plans_;
  std::unique_ptr<PreparedSources> prepared_;
  ReceiverCounters counters_;
  std::optional<catalog::VersionId> committed_;
  // What the receiving memory was last being brought to, in this life or, in
  // place, the last one.
  std::optional<catalog::VersionId> begun_;
  std::string told_not_taken_;
  std::unique_ptr<Serving> serving_;  // null: nobody is served
  // The caller's, and the membership's thread's.
  std::mutex mutex_;
  // Destroyed first: its thread uses the rest.
  std::unique_ptr<Membership> place_;
};

absl::Status ReceiverImpl::MoveFromAny(const catalog::VersionId& version,
                                       bool resume, base::Deadline deadline,
                                       RefitReport& report) {
  while (true) {
    WEFT_ASSIGN_OR_RETURN(Transfer* const transfer, TransferOf(*prepared_));
    transfer->SetNearEnd([this] { lease_keeper_.RenewNow(); });
    const absl::Status status =
        transfer->Run(version, resume, deadline, report);
    if (status.ok()) return status;
    const std::vector<LostSource> lost =
        FindLost(prepared_->links, prepared_->sources, version,
                 transfer->failed_ranks(), status, deadline);
    if (lost.empty() || !Replace(lost, deadline, report)) return status;
    // What has arrived, from whomever, is not moved again.
    resume = true;
  }
}

bool ReceiverImpl::Replace(absl::Span<const LostSource> lost,
                           base::Deadline deadline, RefitReport& report) {
  prepared_->Disconnect();
  const std::unique_ptr<PreparedSources> before = std::move(prepared_);
  SourceChoice rest{before->source_set, before->model_card_digest_hex,
                    before->sources};
  for (const LostSource& each : lost) {
    std::erase_if(rest.sources, [&](const ChosenSource& source) {
      return source.record.rank == each.rank;
    });
  }
  if (rest.sources.empty() ||
      !PrepareFor(std::move(rest), /*connect=*/true, deadline).ok()) {
    return false;
  }
  for (ReplacedSource& each :
       DescribeReplacements(lost, before->planned->plan,
                            prepared_->planned->plan, prepared_->sources)) {
    report.replaced.push_back(std::move(each));
  }
  // Of the run that failed.
  report.execute = {};
  report.peers.clear();
  report.tiles_checked = 0;
  report.bytes_resumed = 0;
  return true;
}

absl::Status ReceiverImpl::PrepareVersion(const catalog::Lease* lease,
                                          base::Deadline deadline) {
  std::optional<PhaseTimer> part(std::in_place, options_.on_phase, "manifests");
  WEFT_ASSIGN_OR_RETURN(
      const catalog::SourceSet set,
      options_.catalog->GetSources(
          options_.model, lease == nullptr ? "" : lease->lease_id, deadline));
  SourceChooser::Request request{
      .version = lease == nullptr ? nullptr : &lease->version.version,
      .copies = options_.read_copies,
      .spread = place_->registration().generation};
  if (serving_ != nullptr) request.excluded.insert(serving_->generation());
  absl::StatusOr<SourceChoice> choice =
      chooser_->Choose(set, request, deadline);
  counters_.manifests_fetched = chooser_->manifests_fetched();
  WEFT_RETURN_IF_ERROR(choice.status());
  part.reset();
  const bool connect = lease != nullptr;
  if (prepared_ != nullptr && prepared_->source_set == choice->source_set &&
      (prepared_->connected || !connect)) {
    return absl::OkStatus();
  }
  return PrepareFor(*std::move(choice), connect, deadline);
}

absl::Status ReceiverImpl::PrepareFor(SourceChoice choice, bool connect,
                                      base::Deadline deadline) {
  std::optional<int64_t> unreachable;
  const absl::Status prepared =
      PrepareOnce(choice, connect, unreachable, deadline);
  if (prepared.ok() || !unreachable.has_value() || deadline.Passed()) {
    return prepared;
  }
  std::erase_if(choice.sources, [&](const ChosenSource& source) {
    return source.record.rank == *unreachable;
  });
  if (choice.sources.empty()) return prepared;
  const absl::Status without = PrepareFor(std::move(choice), connect, deadline);
  // That it was needed and is not there says more than what is missing then.
  return without.ok() ? without : prepared;
}

absl::Status ReceiverImpl::PrepareOnce(const SourceChoice& choice, bool connect,
                                       std::optional<int64_t>& unreachable,
                                       base::Deadline deadline) {
  const PhaseTimer phase(options_.on_phase, "plan and connect");
  WEFT_ASSIGN_OR_RETURN(std::unique_ptr<PreparedSources> next,
                        PreparedSources::Plan(choice, target_digest_, options_,
                                              plans_, counters_.plans_built));
  if (connect) {
    WEFT_RETURN_IF_ERROR(next->Connect(options_, unreachable, deadline));
    counters_.connections_opened += static_cast<int64_t>(next->links.size());
    WEFT_RETURN_IF_ERROR(TransferOf(*next).status());
  }
  prepared_ = std::move(next);
  return absl::OkStatus();
}

absl::StatusOr<Transfer*> ReceiverImpl::TransferOf(PreparedSources& prepared) {
  return shadow_ == nullptr
             ? prepared.TransferInto(0, options_.memory, options_)
             : prepared.TransferInto(shadow_->receiving(),
                                     shadow_->receiving_memory(), options_);
}

absl::StatusOr<RollbackReport> ReceiverImpl::SwitchTo(
    const catalog::VersionId& version, base::Deadline deadline) {
  RollbackReport report;
  report.version = version;
  // The engine need not stand still for it.
  if (serving_ != nullptr) serving_->Withdraw();
  if (options_.shadow.pause) {
    WEFT_RETURN_IF_ERROR(
        base::Annotate(options_.shadow.pause(), "hook that pauses the engine"));
  }
  const auto resume = [this] {
    return base::Annotate(
        options_.shadow.resume ? options_.shadow.resume() : absl::OkStatus(),
        "hook that resumes the engine");
  };
  const auto paused = steady_clock::now();
  const absl::Status latched = latch_->Set(
      version, absl::StrCat("a switch to ", catalog::ToString(version),
                            " has begun and not ended"));
  if (!latched.ok()) {
    // Nothing has changed: the engine goes on with what it serves.
    const absl::Status resumed = resume();
    if (resumed.ok()) return latched;
    return base::Annotate(resumed, std::string(latched.message()));
  }
  const absl::Status switched = SwitchWhilePaused(version, deadline, report);
  if (!switched.ok()) {
    latch_->Fence(absl::StrCat("switch to ", catalog::ToString(version),
                               " failed: ", std::string(switched.message())));
    // There is no lease to say it with. The catalog may be what failed.
    options_.catalog
        ->ReportServing(place_->worker_id(), nullptr, fenced_reason(),
                        base::Deadline::After(std::chrono::seconds(2)))
        .IgnoreError();
    return switched;
  }
  report.pause_seconds = SecondsBetween(paused, steady_clock::now());
  const absl::Status resumed = resume();
  base::FaultList faults;
  for (const absl::Status& recorded :
       {latch_->Record(version),
        options_.catalog->ReportServing(place_->worker_id(), &version, "",
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
  WEFT_RETURN_IF_ERROR(resumed);
  return report;
}

absl::Status ReceiverImpl::SwitchWhilePaused(const catalog::VersionId& version,
                                             base::Deadline deadline,
                                             RollbackReport& report) {
  begun_.reset();  // the receiving set becomes another one
  WEFT_ASSIGN_OR_RETURN(report.bytes_copied, shadow_->Switch(deadline));
  WEFT_RETURN_IF_ERROR(Derive(version));
  committed_ = version;
  latch_->Clear();
  return absl::OkStatus();
}

absl::StatusOr<RollbackReport> ReceiverImpl::Rollback(base::Deadline deadline) {
  const std::lock_guard lock(mutex_);
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
  WEFT_RETURN_IF_ERROR(Serving::CheckOptions(options));
  options.execute.staging_bytes = options.limits.staging_bytes;
  auto receiver = std::make_unique<ReceiverImpl>(std::move(options));
  WEFT_RETURN_IF_ERROR(receiver->Start(deadline));
  return receiver;
}

}  // namespace weft::session
