// The writer: one connection, all that is wanted in one go.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/redis/redis_core_internal.h"
#include "weft/catalog/redis/redis_words_internal.h"

namespace weft::catalog {
namespace {

constexpr std::size_t kProposalsABatch = 1024;
constexpr std::size_t kBytesABatch = std::size_t{4} << 20;
constexpr std::size_t kJobsABatch = 256;
// To wake a thread on a core that sleeps takes as long as Redis takes for a
// batch: 51,000 calls a second of 16 callers without, 66,000 with it.
constexpr std::chrono::microseconds kLooks(200);
// How long the writer keeps the reader asleep without work of its own: longer
// than callers take from one answer to their next call.
constexpr std::chrono::microseconds kReadsOn(200);

int64_t WallMicroseconds() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

absl::Status RefusedBy(const RedisAddress& address, const RedisReply& error) {
  const std::string message = absl::StrCat(
      "redis at ", address.Name(), " refuses: ", error.text,
      error.text.rfind("NOAUTH", 0) == 0 ? " Give it in WEFT_REDIS_PASSWORD"
                                         : "");
  return error.text.rfind("OOM", 0) == 0 || error.text.rfind("MISCONF", 0) == 0
             ? absl::ResourceExhaustedError(message)
             : absl::InternalError(message);
}

void RedisCore::RunWriter() {
  BlockBrokenPipes();
  Backoff backoff;
  while (true) {
    auto connection = RedisConnection::Open(address_, kReplyTime);
    if (!connection.ok()) {
      NoteTrouble(connection.status());
      if (!WaitUnlessClosed(backoff.Next())) return;
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      writing_ = connection->get();
      connected_since_ = base::Deadline::Clock::now();
      // Whatever was under way may be lost: the log knows what came twice.
      sent_sequence_ = 0;
      must_join_ = true;
    }
    const bool was_well = ServeWriter(**connection);
    {
      const std::lock_guard lock(mutex_);
      writing_ = nullptr;
      LetReaderRead();
      connected_since_.reset();
      if (closed_) return;
    }
    if (was_well) {
      backoff = {};
    } else if (!WaitUnlessClosed(backoff.Next())) {
      return;
    }
  }
}

bool RedisCore::ServeWriter(RedisConnection& connection) {
  if (const absl::Status status = SetClock(connection); !status.ok()) {
    NoteTrouble(status);
    return false;
  }
  bool is_well = false;
  while (true) {
    const Batch batch = TakeBatch();
    if (batch.empty()) return is_well;
    const absl::Status sent = SendBatch(connection, batch);
    if (!sent.ok() || !is_well) NoteTrouble(sent);
    const bool was_well = std::exchange(is_well, sent.ok());
    if (is_well) continue;
    const std::lock_guard lock(mutex_);
    for (auto job = batch.jobs.rbegin(); job != batch.jobs.rend(); ++job) {
      if (!(*job)->reply) jobs_.push_front(*job);
    }
    return was_well;
  }
}

void RedisCore::NoteTrouble(const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  trouble_ = std::string(status.message());
}

bool RedisCore::HasWork() const {
  return closed_ || must_join_ || must_beat_ || !jobs_.empty() ||
         open_.upper_bound(sent_sequence_) != open_.end() ||
         (writer_reads_ && !open_.empty());
}

// Waits for work; nothing once closed.
RedisCore::Batch RedisCore::TakeBatch() {
  std::unique_lock lock(mutex_);
  const auto has_work = [this] { return HasWork(); };
  if (writer_reads_ && !work_.wait_for(lock, kReadsOn, has_work)) {
    LetReaderRead();
  }
  work_.wait(lock, has_work);
  Batch batch;
  if (closed_) return batch;
  if (writer_reads_) batch.reads_after = applied_;
  const auto add_job = [&batch](RedisWords words) {
    auto job = std::make_shared<Job>();
    job->words = std::move(words);
    batch.jobs.push_back(std::move(job));
  };
  if (must_join_) {
    Command join;
    join.kind = Command::Kind::kJoin;
    join.server = server_;
    join.now_ns = NowNs();
    // A test's clock may stand still.
    join.number = static_cast<uint64_t>(options_.now ? WallMicroseconds()
                                                     : join.now_ns / 1000);
    batch.joins = true;
    batch.proposals.emplace_back(0, EncodeCommand(join));
    must_beat_ = true;
    must_join_ = false;
  }
  if (must_beat_ && !leaving_) {
    add_job({"SET", Key(ServerKey(server_)), "1", "PX",
             absl::StrCat(options_.server_timeout.count())});
  }
  must_beat_ = false;
  std::size_t bytes = 0;
  for (auto next = open_.upper_bound(sent_sequence_);
       next != open_.end() && batch.proposals.size() < kProposalsABatch &&
       bytes < kBytesABatch;
       ++next) {
    next->second->command.server = server_;
    batch.proposals.emplace_back(next->first,
                                 EncodeCommand(next->second->command));
    bytes += batch.proposals.back().second.size();
    sent_sequence_ = next->first;
  }
  while (!jobs_.empty() && batch.jobs.size() < kJobsABatch &&
         bytes < kBytesABatch) {
    if (!jobs_.front()->given_up) {
      batch.jobs.push_back(jobs_.front());
      for (const std::string& word : jobs_.front()->words) bytes += word.size();
    }
    jobs_.pop_front();
  }
  // An empty batch means closed.
  if (batch.empty()) add_job({"PING"});
  return batch;
}

absl::Status RedisCore::SendBatch(RedisConnection& connection,
                                  const Batch& batch) {
  for (const auto& [sequence, entry] : batch.proposals) {
    connection.Append({"XADD", Key(kLogKey), "*", kEntryField, entry});
  }
  for (const auto& job : batch.jobs) connection.Append(job->words);
  if (batch.reads_after) {
    connection.Append(NewsAfter(Key(kLogKey), *batch.reads_after));
    connection.SendAndLook(kLooks);
  }
  for (const auto& [sequence, entry] : batch.proposals) {
    WEFT_ASSIGN_OR_RETURN(const RedisReply reply, connection.Read());
    if (reply.kind != RedisReply::Kind::kError) continue;
    FinishProposal(sequence, RefusedBy(address_, reply));
  }
  bool any = false;
  for (const auto& job : batch.jobs) {
    WEFT_ASSIGN_OR_RETURN(RedisReply reply, connection.Read());
    const std::lock_guard lock(mutex_);
    job->reply = std::move(reply);
    any = true;
  }
  if (any) changed_.notify_all();
  return batch.reads_after ? ReadAlong(connection) : absl::OkStatus();
}

// What is more than plain news is for the reader, which asks for it again.
absl::Status RedisCore::ReadAlong(RedisConnection& connection) {
  WEFT_ASSIGN_OR_RETURN(RedisReply streams, connection.Read());
  const absl::StatusOr<std::vector<RedisReply>> news =
      EntriesOf(address_, std::move(streams));
  if (news.ok() && !news->empty() && !MayBeCut(news->size()) &&
      ApplyNews(*news).ok()) {
    return absl::OkStatus();
  }
  const std::lock_guard lock(mutex_);
  LetReaderRead();
  return absl::OkStatus();
}

void RedisCore::FinishProposal(uint64_t sequence,
                               absl::StatusOr<CommandResult> result) {
  Answers answers;
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(sequence);
  if (found == open_.end()) return;
  if (found->second->command.kind == Command::Kind::kTick) {
    tick_is_open_ = false;
  }
  answers.results.emplace_back(std::move(found->second), std::move(result));
  open_.erase(found);
}

}  // namespace weft::catalog
