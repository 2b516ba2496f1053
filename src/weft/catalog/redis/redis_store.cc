#include "weft/catalog/redis/redis_store.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/redis/redis_core_internal.h"
#include "weft/catalog/redis/redis_words_internal.h"

namespace weft::catalog {
namespace {

using Kind = Command::Kind;

// Bytes whose command never came into the log go by themselves.
constexpr char kUnusedPlacementSeconds[] = "3600";
constexpr std::chrono::seconds kDetachTime(2);

Command OfWorker(Kind kind, const std::string& worker_id) {
  Command command;
  command.kind = kind;
  command.id = worker_id.substr(0, kMaxNameBytes);
  return command;
}

class RedisAttachment : public Attachment {
 public:
  RedisAttachment(std::shared_ptr<RedisCore> core, Registration worker,
                  uint64_t token)
      : core_(std::move(core)), worker_(std::move(worker)), token_(token) {
    core_->Hold(token_, worker_);
  }
  ~RedisAttachment() override {
    core_->EndHolding(token_);
    Command end =
        OfWorker(abandoned_ ? Kind::kOrphan : Kind::kDetach, worker_.worker_id);
    end.token = token_;
    end.flag = in_order_;
    // Nobody waits for an orphan; the dead should be dead on return.
    const auto wait = abandoned_ ? std::chrono::seconds(0) : kDetachTime;
    core_->Propose(std::move(end), base::Deadline::After(wait), /*keep=*/true)
        .status()
        .IgnoreError();
    core_->LetGo(token_);
  }

  absl::Status Health() override {
    return core_->Health(worker_.worker_id, token_);
  }
  void EndInOrder() override { in_order_ = true; }
  void Abandon() override { abandoned_ = true; }

 private:
  const std::shared_ptr<RedisCore> core_;
  const Registration worker_;
  const uint64_t token_;
  bool in_order_ = false;
  bool abandoned_ = false;
};

class RedisWatch : public VersionWatch {
 public:
  RedisWatch(std::shared_ptr<RedisCore> core, std::string model,
             std::shared_ptr<VersionQueue> queue)
      : core_(std::move(core)),
        model_(std::move(model)),
        queue_(std::move(queue)) {}
  ~RedisWatch() override {
    core_->Unsubscribe(model_, queue_);
    queue_->SetWake(nullptr);
  }

  absl::StatusOr<VersionRecord> Next(base::Deadline deadline) override {
    return queue_->Next(deadline);
  }
  void Cancel() override { queue_->Cancel(); }
  void SetWake(std::function<void()> wake) override {
    queue_->SetWake(std::move(wake));
  }

 private:
  const std::shared_ptr<RedisCore> core_;
  const std::string model_;
  const std::shared_ptr<VersionQueue> queue_;
};

class RedisStore : public CatalogStore {
 public:
  explicit RedisStore(std::shared_ptr<RedisCore> core)
      : core_(std::move(core)) {}
  ~RedisStore() override { core_->Close(); }

  absl::Status PutPlacement(const std::string& digest_hex,
                            const std::string& bytes,
                            base::Deadline deadline) override;
  absl::StatusOr<std::string> GetPlacement(const std::string& digest_hex,
                                           base::Deadline deadline) override;
  absl::StatusOr<Registration> Register(const WorkerInfo& info,
                                        const std::string& binding,
                                        base::Deadline deadline) override;
  absl::StatusOr<std::unique_ptr<Attachment>> Attach(
      const std::string& worker_id, base::Deadline deadline) override;
  absl::StatusOr<std::unique_ptr<Attachment>> Reattach(
      const Registration& worker, base::Deadline deadline) override;
  absl::StatusOr<VersionRecord> PublishShard(const std::string& worker_id,
                                             uint64_t step,
                                             base::Deadline deadline) override;
  absl::StatusOr<VersionRecord> RepublishShard(
      const std::string& worker_id, uint64_t step,
      base::Deadline deadline) override;
  absl::StatusOr<int64_t> BeginUpdate(const std::string& worker_id,
                                      base::Deadline revoke_after) override;
  absl::StatusOr<std::unique_ptr<VersionWatch>> WatchVersions(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<SourceSet> GetSources(const std::string& model,
                                       const std::string& lease_id,
                                       base::Deadline deadline) override;
  absl::StatusOr<Lease> AcquireLease(const std::string& worker_id,
                                     const VersionId& version,
                                     base::Deadline deadline) override;
  absl::StatusOr<Lease> AcquireNewestLease(const std::string& worker_id,
                                           const VersionId* newer_than,
                                           base::Deadline deadline) override;
  absl::Status RenewLease(const std::string& lease_id,
                          base::Deadline deadline) override;
  absl::Status ReleaseLease(const std::string& lease_id, bool committed,
                            const std::string& fenced_reason,
                            base::Deadline deadline) override;
  absl::Status ReportServing(const std::string& worker_id,
                             const VersionId* committed,
                             const std::string& fenced_reason,
                             base::Deadline deadline) override;
  absl::StatusOr<std::vector<VersionRecord>> ListVersions(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<std::vector<LeaseRecord>> ListLeases(
      const std::string& model, base::Deadline deadline) override;
  absl::StatusOr<EventPage> ReadEvents(const EventQuery& query,
                                       base::Deadline deadline) override;

 private:
  // Proposes, and takes the command's own error for the call's.
  absl::StatusOr<CommandResult> Do(Command command, base::Deadline deadline);
  absl::StatusOr<std::unique_ptr<Attachment>> AttachBy(Command command,
                                                       base::Deadline deadline);
  absl::StatusOr<VersionRecord> Publish(const std::string& worker_id,
                                        uint64_t step, bool again,
                                        base::Deadline deadline);

  const std::shared_ptr<RedisCore> core_;
};

absl::StatusOr<CommandResult> RedisStore::Do(Command command,
                                             base::Deadline deadline) {
  WEFT_ASSIGN_OR_RETURN(CommandResult result,
                        core_->Propose(std::move(command), deadline));
  WEFT_RETURN_IF_ERROR(result.status);
  return result;
}

absl::Status RedisStore::PutPlacement(const std::string& digest_hex,
                                      const std::string& bytes,
                                      base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("putting a placement"));
  WEFT_RETURN_IF_ERROR(CheckPlacement(digest_hex, bytes));
  // A place of its own each time: what was put before may be given up at the
  // same moment.
  Command put;
  put.kind = Kind::kPutPlacement;
  put.id = digest_hex;
  put.text = absl::StrCat(digest_hex, "-", NewServerId());
  put.number = bytes.size();
  const std::string key = core_->Key(PlacementKey(put.text));
  WEFT_RETURN_IF_ERROR(
      core_->Ask({"SET", key, bytes, "EX", kUnusedPlacementSeconds}, deadline)
          .status());
  WEFT_ASSIGN_OR_RETURN(const CommandResult result,
                        Do(std::move(put), deadline));
  if (result.is_new) return absl::OkStatus();
  return core_->Ask({"UNLINK", key}, deadline).status();
}

absl::StatusOr<std::string> RedisStore::GetPlacement(
    const std::string& digest_hex, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("getting a placement"));
  WEFT_RETURN_IF_ERROR(CheckDigestHex(digest_hex));
  WEFT_RETURN_IF_ERROR(core_->CatchUp(deadline));
  const std::string place = core_->Read([&](const CatalogState& state) {
    const auto* placement = state.placements().Find(digest_hex);
    return placement == nullptr ? std::string() : placement->place;
  });
  const absl::Status unknown = absl::NotFoundError(
      absl::StrCat("placement ", digest_hex, " is not known"));
  if (place.empty()) return unknown;
  WEFT_ASSIGN_OR_RETURN(
      RedisReply bytes,
      core_->Ask({"GET", core_->Key(PlacementKey(place))}, deadline));
  if (bytes.kind != RedisReply::Kind::kText) return unknown;
  return std::move(bytes.text);
}

absl::StatusOr<Registration> RedisStore::Register(const WorkerInfo& info,
                                                  const std::string& binding,
                                                  base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("registering a worker"));
  WEFT_RETURN_IF_ERROR(CheckWorkerInfo(info));
  WEFT_RETURN_IF_ERROR(CheckByteCount("binding", binding, kMaxBindingBytes));
  Command command;
  command.kind = Kind::kRegister;
  command.flag = info.rejoins;
  command.info = info;
  command.text = binding;
  WEFT_ASSIGN_OR_RETURN(CommandResult result, Do(std::move(command), deadline));
  return std::move(result.registration);
}

absl::StatusOr<std::unique_ptr<Attachment>> RedisStore::AttachBy(
    Command command, base::Deadline deadline) {
  const uint64_t token = core_->NewToken();
  command.token = token;
  WEFT_ASSIGN_OR_RETURN(CommandResult result, Do(std::move(command), deadline));
  return std::make_unique<RedisAttachment>(
      core_, std::move(result.registration), token);
}

absl::StatusOr<std::unique_ptr<Attachment>> RedisStore::Attach(
    const std::string& worker_id, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("attaching a worker"));
  return AttachBy(OfWorker(Kind::kAttach, worker_id), deadline);
}

absl::StatusOr<std::unique_ptr<Attachment>> RedisStore::Reattach(
    const Registration& worker, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("attaching a worker again"));
  Command command = OfWorker(Kind::kReattach, worker.worker_id);
  command.number = worker.generation;
  return AttachBy(std::move(command), deadline);
}

absl::StatusOr<VersionRecord> RedisStore::Publish(const std::string& worker_id,
                                                  uint64_t step, bool again,
                                                  base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("publishing a shard"));
  Command command = OfWorker(Kind::kPublish, worker_id);
  command.number = step;
  command.flag = again;
  WEFT_ASSIGN_OR_RETURN(CommandResult result, Do(std::move(command), deadline));
  return std::move(result.record);
}

absl::StatusOr<VersionRecord> RedisStore::PublishShard(
    const std::string& worker_id, uint64_t step, base::Deadline deadline) {
  return Publish(worker_id, step, /*again=*/false, deadline);
}

absl::StatusOr<VersionRecord> RedisStore::RepublishShard(
    const std::string& worker_id, uint64_t step, base::Deadline deadline) {
  return Publish(worker_id, step, /*again=*/true, deadline);
}

absl::StatusOr<int64_t> RedisStore::BeginUpdate(const std::string& worker_id,
                                                base::Deadline revoke_after) {
  // The deadline says when to revoke, not when to give up.
  const base::Deadline patient = base::Deadline::Infinite();
  // Before anybody can see that the version retires, and move the worker.
  const std::optional<uint64_t> token = core_->TokenOf(worker_id);
  WEFT_ASSIGN_OR_RETURN(const CommandResult retired,
                        Do(OfWorker(Kind::kRetire, worker_id), patient));
  if (!retired.key) return 0;
  WEFT_ASSIGN_OR_RETURN(
      const bool is_retired,
      core_->AwaitRetired(worker_id, *retired.key, token, revoke_after));
  if (is_retired) return 0;
  Command revoke;
  revoke.kind = Kind::kRevoke;
  revoke.text = retired.key->model;
  revoke.version = retired.key->version;
  WEFT_ASSIGN_OR_RETURN(const CommandResult revoked,
                        Do(std::move(revoke), patient));
  return revoked.revoked;
}

absl::StatusOr<std::unique_ptr<VersionWatch>> RedisStore::WatchVersions(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("starting a version watch"));
  WEFT_RETURN_IF_ERROR(CheckName("model", model));
  WEFT_ASSIGN_OR_RETURN(auto queue, core_->Subscribe(model, deadline));
  return std::make_unique<RedisWatch>(core_, model, std::move(queue));
}

absl::StatusOr<SourceSet> RedisStore::GetSources(const std::string& model,
                                                 const std::string& lease_id,
                                                 base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("getting sources"));
  WEFT_RETURN_IF_ERROR(CheckName("model", model));
  WEFT_RETURN_IF_ERROR(core_->CatchUp(deadline));
  return core_->Read([&](const CatalogState& state) {
    return state.GetSources(model, lease_id);
  });
}

absl::StatusOr<Lease> RedisStore::AcquireLease(const std::string& worker_id,
                                               const VersionId& version,
                                               base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("acquiring a lease"));
  WEFT_RETURN_IF_ERROR(CheckName("run id", version.run_id));
  Command command = OfWorker(Kind::kAcquire, worker_id);
  command.version = version;
  WEFT_ASSIGN_OR_RETURN(CommandResult result, Do(std::move(command), deadline));
  return std::move(result.lease);
}

absl::StatusOr<Lease> RedisStore::AcquireNewestLease(
    const std::string& worker_id, const VersionId* newer_than,
    base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("acquiring a lease"));
  Command command = OfWorker(Kind::kAcquireNewest, worker_id);
  if (newer_than != nullptr) {
    WEFT_RETURN_IF_ERROR(CheckName("run id", newer_than->run_id));
    command.flag = true;
    command.version = *newer_than;
  }
  WEFT_ASSIGN_OR_RETURN(CommandResult result, Do(std::move(command), deadline));
  return std::move(result.lease);
}

absl::Status RedisStore::RenewLease(const std::string& lease_id,
                                    base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("renewing a lease"));
  return Do(OfWorker(Kind::kRenew, lease_id), deadline).status();
}

absl::Status RedisStore::ReleaseLease(const std::string& lease_id,
                                      bool committed,
                                      const std::string& fenced_reason,
                                      base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("releasing a lease"));
  Command command = OfWorker(Kind::kRelease, lease_id);
  command.flag = committed;
  command.text = CleanReason(fenced_reason);
  return Do(std::move(command), deadline).status();
}

absl::Status RedisStore::ReportServing(const std::string& worker_id,
                                       const VersionId* committed,
                                       const std::string& fenced_reason,
                                       base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("reporting what is served"));
  Command command = OfWorker(Kind::kReport, worker_id);
  if (committed != nullptr) {
    WEFT_RETURN_IF_ERROR(CheckName("run id", committed->run_id));
    command.flag = true;
    command.version = *committed;
  }
  command.text = CleanReason(fenced_reason);
  return Do(std::move(command), deadline).status();
}

absl::StatusOr<std::vector<VersionRecord>> RedisStore::ListVersions(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("listing versions"));
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  WEFT_RETURN_IF_ERROR(core_->CatchUp(deadline));
  return core_->Read(
      [&](const CatalogState& state) { return state.ListVersions(model); });
}

absl::StatusOr<std::vector<WorkerRecord>> RedisStore::ListWorkers(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("listing workers"));
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  WEFT_RETURN_IF_ERROR(core_->CatchUp(deadline));
  return core_->Read(
      [&](const CatalogState& state) { return state.ListWorkers(model); });
}

absl::StatusOr<std::vector<LeaseRecord>> RedisStore::ListLeases(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("listing leases"));
  if (!model.empty()) WEFT_RETURN_IF_ERROR(CheckName("model", model));
  WEFT_RETURN_IF_ERROR(core_->CatchUp(deadline));
  const base::Deadline::Clock::time_point now(
      std::chrono::nanoseconds(core_->NowNs()));
  return core_->Read(
      [&](const CatalogState& state) { return state.ListLeases(model, now); });
}

absl::StatusOr<EventPage> RedisStore::ReadEvents(const EventQuery& query,
                                                 base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(deadline.Check("reading events"));
  if (!query.model.empty()) {
    WEFT_RETURN_IF_ERROR(CheckName("model", query.model));
  }
  return core_->AwaitEvents(query, deadline);
}

// A Redis that does not let itself be asked is not warned of.
void WarnIfNotDurable(RedisCore& core, const std::string& url,
                      const std::function<void(const std::string&)>& note) {
  constexpr std::chrono::seconds kAskTime(2);
  const auto ask = [&](const std::string& name) -> std::string {
    const auto reply =
        core.Ask({"CONFIG", "GET", name}, base::Deadline::After(kAskTime));
    if (!reply.ok() || reply->items.size() != 2) return "";
    return reply->items[1].text;
  };
  if (ask("appendonly") == "no") {
    note(absl::StrCat("redis at ", url,
                      " has appendonly no: when it restarts the catalog is "
                      "empty or old, and workers register anew (docs/"
                      "catalog.md)"));
  }
  const std::string policy = ask("maxmemory-policy");
  if (!policy.empty() && policy != "noeviction") {
    note(absl::StrCat("redis at ", url, " has maxmemory-policy ", policy,
                      ": it may drop parts of the catalog, noeviction is "
                      "wanted"));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<CatalogStore>> MakeRedisStore(
    const std::string& url, const RedisStoreOptions& options) {
  WEFT_ASSIGN_OR_RETURN(RedisAddress address, ParseRedisUrl(url));
  address.password = options.password;
  auto core = std::make_shared<RedisCore>(std::move(address), options);
  WEFT_RETURN_IF_ERROR(core->Start());
  if (options.on_note) WarnIfNotDurable(*core, url, options.on_note);
  return std::make_unique<RedisStore>(std::move(core));
}

}  // namespace weft::catalog
