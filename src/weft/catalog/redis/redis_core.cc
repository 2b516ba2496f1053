// What the store calls, and the keeper.
#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/redis/redis_core_internal.h"
#include "weft/catalog/redis/redis_words_internal.h"

namespace weft::catalog {
namespace {

using Clock = base::Deadline::Clock;

constexpr std::chrono::seconds kLeaveTime(1);

RedisStoreOptions WithDefaults(RedisStoreOptions options) {
  if (options.entries_a_snapshot == 0) {
    options.entries_a_snapshot = Replica::kEntriesASnapshot;
  }
  return options;
}

}  // namespace

std::string NewServerId() {
  std::random_device random;
  return absl::StrCat("s", absl::Hex(random(), absl::kZeroPad8),
                      absl::Hex(random(), absl::kZeroPad8));
}

RedisCore::RedisCore(RedisAddress address, RedisStoreOptions options)
    : address_(std::move(address)),
      options_(WithDefaults(std::move(options))),
      clock_(options_.now),
      server_(NewServerId()) {}

std::string RedisCore::Key(const std::string& name) const {
  return absl::StrCat(address_.prefix, ":", name);
}

int64_t RedisCore::NowNs() const {
  return std::chrono::nanoseconds(clock_.Now().time_since_epoch()).count();
}

absl::Status RedisCore::SetClock(RedisConnection& connection) {
  if (clock_.is_set()) return absl::OkStatus();
  const auto asked = Clock::now();
  WEFT_ASSIGN_OR_RETURN(const RedisReply reply, connection.Ask({"TIME"}));
  const auto when = asked + (Clock::now() - asked) / 2;
  int64_t seconds = 0;
  int64_t microseconds = 0;
  if (reply.items.size() != 2 ||
      !absl::SimpleAtoi(reply.items[0].text, &seconds) ||
      !absl::SimpleAtoi(reply.items[1].text, &microseconds)) {
    return absl::FailedPreconditionError(RefusedBy(address_, reply).message());
  }
  clock_.Set(ServerClock::TimePoint(std::chrono::seconds(seconds) +
                                    std::chrono::microseconds(microseconds)),
             when);
  return absl::OkStatus();
}

absl::Status RedisCore::Start() {
  threads_.emplace_back([this] { RunReader(); });
  threads_.emplace_back([this] { RunWriter(); });
  threads_.emplace_back([this] { RunKeeper(); });
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, options_.patience, [this] {
    return replica_ != nullptr || absl::IsDataLoss(load_status_) ||
           absl::IsFailedPrecondition(load_status_);
  });
  if (replica_ != nullptr) return absl::OkStatus();
  if (!load_status_.ok()) return load_status_;
  return absl::UnavailableError(
      absl::StrCat("no redis answers at ", address_.Name()));
}

void RedisCore::Close() {
  bool leaves = false;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    leaves = joined_ && writing_ != nullptr;
    leaving_ = true;
  }
  if (leaves) {
    Command leave;
    leave.kind = Command::Kind::kLeave;
    {
      const std::lock_guard lock(mutex_);
      leave.id = server_;
    }
    Propose(leave, base::Deadline::After(kLeaveTime)).status().IgnoreError();
  }
  VersionWatches::Queues queues;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
    news_.notify_all();
    ending_.notify_all();
    work_.notify_all();
    turn_.notify_all();
    for (const auto& [sequence, proposal] : open_) proposal->Close();
    for (RedisConnection* connection : {writing_, reading_}) {
      if (connection != nullptr) connection->Shutdown();
    }
    queues = watches_.All();
  }
  for (std::thread& thread : threads_) thread.join();
  for (const auto& queue : queues) {
    queue->Close(absl::UnavailableError("the catalog store has ended"));
    queue->Wake();
  }
}

base::Deadline RedisCore::Patient(base::Deadline deadline) const {
  const base::Deadline patience = base::Deadline::After(options_.patience);
  return deadline.when() < patience.when() ? deadline : patience;
}

// Why a wait until Patient(deadline) found nothing.
absl::Status RedisCore::Away(base::Deadline deadline) const {
  if (closed_) return absl::UnavailableError("the catalog store has ended");
  const std::string why =
      trouble_.empty() ? "" : absl::StrCat(" (", trouble_, ")");
  if (deadline.Passed()) {
    return absl::DeadlineExceededError(absl::StrCat(
        "deadline passed while waiting for redis at ", address_.Name(), why));
  }
  return absl::UnavailableError(absl::StrCat(
      "redis at ", address_.Name(),
      " does not answer; what was asked for may be done later", why));
}

absl::StatusOr<CommandResult> RedisCore::Propose(Command command,
                                                 base::Deadline deadline,
                                                 bool keep) {
  const base::Deadline until = Patient(deadline);
  auto proposal = std::make_shared<Proposal>();
  proposal->command = std::move(command);
  uint64_t sequence = 0;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return Away(deadline);
    sequence = ++last_sequence_;
    proposal->command.sequence = sequence;
    proposal->command.now_ns = NowNs();
    open_[sequence] = proposal;
    work_.notify_one();
  }
  if (auto result = proposal->Await(until)) return *std::move(result);
  const std::lock_guard lock(mutex_);
  if (!keep) open_.erase(sequence);
  return Away(deadline);
}

void RedisCore::Proposal::Answer(absl::StatusOr<CommandResult> with) {
  {
    const std::lock_guard lock(mutex_);
    result_ = std::move(with);
  }
  done_.notify_all();
}

void RedisCore::Proposal::Close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  done_.notify_all();
}

std::optional<absl::StatusOr<CommandResult>> RedisCore::Proposal::Await(
    base::Deadline deadline) {
  std::unique_lock lock(mutex_);
  done_.wait_for(lock, deadline.Remaining(),
                 [this] { return result_.has_value() || closed_; });
  return std::move(result_);
}

absl::StatusOr<RedisReply> RedisCore::Ask(RedisWords words,
                                          base::Deadline deadline) {
  const base::Deadline until = Patient(deadline);
  auto job = std::make_shared<Job>();
  job->words = std::move(words);
  std::unique_lock lock(mutex_);
  jobs_.push_back(job);
  work_.notify_one();
  changed_.wait_for(lock, until.Remaining(),
                    [&] { return job->reply.has_value() || closed_; });
  if (!job->reply) {
    job->given_up = true;
    return Away(deadline);
  }
  if (job->reply->kind == RedisReply::Kind::kError) {
    return RefusedBy(address_, *job->reply);
  }
  return *std::move(job->reply);
}

void RedisCore::AddJob(RedisWords words) {
  auto job = std::make_shared<Job>();
  job->words = std::move(words);
  jobs_.push_back(std::move(job));
  work_.notify_one();
}

absl::Status RedisCore::CatchUp(base::Deadline deadline) {
  bool due = false;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return Away(deadline);
    const auto next = replica_->state().NextExpiry();
    due = next && *next <= clock_.Now();
  }
  if (due) {
    Command tick;
    tick.kind = Command::Kind::kTick;
    return Propose(tick, deadline).status();
  }
  WEFT_ASSIGN_OR_RETURN(
      const RedisReply newest,
      Ask({"XREVRANGE", Key(kLogKey), "+", "-", "COUNT", "1"}, deadline));
  if (newest.items.empty()) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const auto id, EntryIdOf(newest.items[0]));
  const base::Deadline until = Patient(deadline);
  std::unique_lock lock(mutex_);
  const bool there = changed_.wait_for(
      lock, until.Remaining(), [&] { return applied_ >= id || closed_; });
  return there && !closed_ ? absl::OkStatus() : Away(deadline);
}

uint64_t RedisCore::NewToken() {
  const std::lock_guard lock(mutex_);
  return ++last_token_;
}

void RedisCore::Hold(uint64_t token, const Registration& worker) {
  const std::lock_guard lock(mutex_);
  held_[token] = {worker};
}

void RedisCore::EndHolding(uint64_t token) {
  const std::lock_guard lock(mutex_);
  const auto held = held_.find(token);
  if (held != held_.end()) held->second.ends = true;
}

void RedisCore::LetGo(uint64_t token) {
  const std::lock_guard lock(mutex_);
  held_.erase(token);
  changed_.notify_all();
}

std::optional<uint64_t> RedisCore::TokenOf(const std::string& worker_id) {
  const std::lock_guard lock(mutex_);
  for (auto held = held_.rbegin(); held != held_.rend(); ++held) {
    if (held->second.worker.worker_id == worker_id) return held->first;
  }
  return std::nullopt;
}

absl::Status RedisCore::Health(const std::string& worker_id, uint64_t token) {
  WEFT_RETURN_IF_ERROR(CatchUp(base::Deadline::Infinite()));
  const std::lock_guard lock(mutex_);
  return replica_->state().Health(worker_id, {server_, token});
}

absl::StatusOr<bool> RedisCore::AwaitRetired(
    const std::string& worker_id, const CatalogState::VersionKey& key,
    std::optional<uint64_t> token, base::Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto has_gone = [&] { return token && !held_.contains(*token); };
  absl::StatusOr<bool> retired = false;
  changed_.wait_for(lock, deadline.Remaining(), [&] {
    retired = replica_->state().IsRetired(worker_id, key);
    return closed_ || !retired.ok() || *retired || has_gone();
  });
  if (closed_) return Away(deadline);
  if (retired.ok() && !*retired && has_gone()) {
    return absl::UnavailableError(absl::StrCat(
        "worker ", worker_id, " has left this server while its update waited"));
  }
  return retired;
}

absl::StatusOr<EventPage> RedisCore::AwaitEvents(const EventQuery& query,
                                                 base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(CatchUp(deadline));
  std::unique_lock lock(mutex_);
  news_.wait_for(lock, query.wait_until.Remaining(),
                 [&] { return closed_ || events_.HasNews(query); });
  return events_.Read(query);
}

absl::StatusOr<std::shared_ptr<VersionQueue>> RedisCore::Subscribe(
    const std::string& model, base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(CatchUp(deadline));
  const std::lock_guard lock(mutex_);
  return watches_.Subscribe(model, replica_->state().ListVersions(model));
}

void RedisCore::Unsubscribe(const std::string& model,
                            const std::shared_ptr<VersionQueue>& queue) {
  const std::lock_guard lock(mutex_);
  watches_.Unsubscribe(model, queue);
}

bool RedisCore::WaitUnlessClosed(std::chrono::nanoseconds time) {
  std::unique_lock lock(mutex_);
  ending_.wait_for(lock, time, [this] { return closed_; });
  return !closed_;
}

void RedisCore::RunKeeper() {
  const auto beat = options_.server_timeout / 4;
  auto next_beat = Clock::now();
  while (true) {
    std::unique_lock lock(mutex_);
    auto until = next_beat;
    if (replica_ != nullptr && !tick_is_open_) {
      if (const auto next = replica_->state().NextExpiry()) {
        const auto left =
            std::max(*next - clock_.Now(),
                     Clock::duration(std::chrono::milliseconds(1)));
        until = std::min(until, Clock::now() + left);
      }
    }
    ending_.wait_until(lock, until, [&] { return closed_; });
    if (closed_) return;
    const bool due = replica_ != nullptr &&
                     replica_->state().NextExpiry().has_value() &&
                     *replica_->state().NextExpiry() <= clock_.Now();
    if (due && !tick_is_open_) {
      auto tick = std::make_shared<Proposal>();
      tick->command.sequence = ++last_sequence_;
      tick->command.now_ns = NowNs();
      open_[last_sequence_] = std::move(tick);
      tick_is_open_ = true;
      work_.notify_one();
    }
    if (Clock::now() < next_beat) continue;
    next_beat = Clock::now() + beat;
    must_beat_ = true;
    if (!joined_ && !leaving_) must_join_ = true;  // the last one was refused
    work_.notify_one();
    CheckServers();
  }
}

// With mutex_ held, each beat: takes the answers of the last one, asks anew.
// A server whose key has expired is dead, unless Redis itself was away: then
// all of them need a moment to write their keys again.
void RedisCore::CheckServers() {
  const bool settled =
      connected_since_ &&
      Clock::now() > *connected_since_ + options_.server_timeout;
  for (const auto& [server, job] : server_checks_) {
    if (!job->reply) job->given_up = true;
    const bool is_missing = job->reply &&
                            job->reply->kind == RedisReply::Kind::kNumber &&
                            job->reply->number == 0;
    if (!settled || !is_missing || !replica_->HasServer(server)) continue;
    auto leave = std::make_shared<Proposal>();
    leave->command.kind = Command::Kind::kLeave;
    leave->command.id = server;
    leave->command.sequence = ++last_sequence_;
    leave->command.now_ns = NowNs();
    open_[last_sequence_] = std::move(leave);
  }
  server_checks_.clear();
  if (replica_ == nullptr || !settled) return;
  for (const std::string& server : replica_->Servers()) {
    if (server == server_) continue;
    auto job = std::make_shared<Job>();
    job->words = {"EXISTS", Key(ServerKey(server))};
    jobs_.push_back(job);
    server_checks_[server] = std::move(job);
  }
}

}  // namespace weft::catalog
