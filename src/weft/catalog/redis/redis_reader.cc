// The reader: the log, entry by entry, and what lies before it.
#include <signal.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/catalog/redis/redis_core_internal.h"
#include "weft/catalog/redis/redis_words_internal.h"

namespace weft::catalog {
namespace {

constexpr char kBlockMs[] = "1000";
constexpr uint8_t kOptionsFormat = 1;
// Applied under the lock in one go. Those who proposed them go on while the
// next are applied.
constexpr size_t kEntriesAtOnce = 8;

// Writes a snapshot if it is newer than the one there, and cuts the log at the
// one before: a reader that is slower than a whole snapshot sees the cut.
constexpr char kSnapshotScript[] = R"(
local old = redis.call('HMGET', KEYS[1], 'entries', 'id')
if old[1] and tonumber(old[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'entries', ARGV[1], 'id', ARGV[2], 'state', ARGV[3])
if old[2] then
  redis.call('HSET', KEYS[1], 'cut', old[1])
  redis.call('XTRIM', KEYS[2], 'MINID', old[2])
end
return 1
)";

std::string EncodeOptions(const StateOptions& options) {
  base::ByteWriter writer;
  writer.U8(kOptionsFormat);
  writer.I64(options.lease_duration.count());
  writer.I64(options.attach_within.count());
  writer.U64(options.first_number);
  writer.U64(options.dead_workers_kept);
  writer.U64(options.unused_placements_kept);
  writer.I64(options.unused_placement_bytes_kept);
  return writer.Take();
}

absl::StatusOr<StateOptions> DecodeOptions(std::string_view bytes) {
  constexpr int64_t kLongestNs = int64_t{1} << 61;
  base::ByteReader reader(bytes);
  if (reader.U8() != kOptionsFormat) reader.Fail();
  StateOptions options;
  const auto read_time = [&reader] {
    const int64_t ns = reader.I64();
    if (ns < 0 || ns > kLongestNs) reader.Fail();
    return std::chrono::nanoseconds(reader.ok() ? ns : 0);
  };
  options.lease_duration = read_time();
  options.attach_within = read_time();
  options.first_number = reader.U64();
  options.dead_workers_kept = reader.U64();
  options.unused_placements_kept = reader.U64();
  options.unused_placement_bytes_kept = reader.I64();
  WEFT_RETURN_IF_ERROR(reader.Finish("options of the catalog"));
  return options;
}

uint64_t NumberOf(const RedisReply& reply) {
  uint64_t number = 0;
  return absl::SimpleAtoi(reply.text, &number) ? number : 0;
}

absl::StatusOr<std::pair<uint64_t, uint64_t>> ParseEntryId(
    const std::string& text) {
  std::pair<uint64_t, uint64_t> id;
  const size_t dash = text.find('-');
  if (dash == std::string::npos ||
      !absl::SimpleAtoi(text.substr(0, dash), &id.first) ||
      !absl::SimpleAtoi(text.substr(dash + 1), &id.second)) {
    return absl::DataLossError(
        absl::StrCat("redis names an entry \"", text, "\""));
  }
  return id;
}

std::string LineOf(const std::string& text, const std::string& name) {
  const size_t at = text.find(name + ":");
  if (at == std::string::npos) return "";
  const size_t start = at + name.size() + 1;
  return text.substr(start, text.find_first_of("\r\n", start) - start);
}

}  // namespace

void BlockBrokenPipes() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

absl::StatusOr<std::pair<uint64_t, uint64_t>> EntryIdOf(
    const RedisReply& entry) {
  if (entry.items.size() != 2) {
    return absl::DataLossError("redis gives an entry without its id");
  }
  return ParseEntryId(entry.items[0].text);
}

absl::StatusOr<std::vector<RedisReply>> EntriesOf(const RedisAddress& address,
                                                  RedisReply streams) {
  if (streams.kind == RedisReply::Kind::kError) {
    return RefusedBy(address, streams);
  }
  if (streams.items.empty()) return std::vector<RedisReply>();
  if (streams.items[0].items.size() != 2) {
    return absl::DataLossError("redis answers XREAD without entries");
  }
  return std::move(streams.items[0].items[1].items);
}

std::string ToString(const std::pair<uint64_t, uint64_t>& entry_id) {
  return absl::StrCat(entry_id.first, "-", entry_id.second);
}

void RedisCore::RunReader() {
  BlockBrokenPipes();
  Backoff backoff;
  while (true) {
    auto connection = RedisConnection::Open(address_, kReplyTime);
    absl::Status status = connection.status();
    if (status.ok()) {
      {
        const std::lock_guard lock(mutex_);
        if (closed_) return;
        reading_ = connection->get();
      }
      status = ServeReader(**connection);
      const std::lock_guard lock(mutex_);
      reading_ = nullptr;
      if (replica_ != nullptr) backoff = {};
    }
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      load_status_ = status;
      changed_.notify_all();
    }
    if (!WaitUnlessClosed(backoff.Next())) return;
  }
}

absl::Status RedisCore::ServeReader(RedisConnection& connection) {
  WEFT_RETURN_IF_ERROR(SetClock(connection));
  WEFT_RETURN_IF_ERROR(LoadIfNew(connection));
  while (true) {
    EntryId after;
    uint64_t entries = 0;
    {
      std::unique_lock lock(mutex_);
      // Others wait: the writer is about to send or has just sent theirs.
      if (!open_.empty() && writing_ != nullptr) {
        writer_reads_ = true;
        work_.notify_one();
        turn_.wait(lock, [this] { return closed_ || !writer_reads_; });
      }
      if (closed_) return absl::OkStatus();
      after = applied_;
      entries = replica_->entries();
    }
    WEFT_ASSIGN_OR_RETURN(
        RedisReply streams,
        connection.Ask({"XREAD", "COUNT", kNewsAtOnce, "BLOCK", kBlockMs,
                        "STREAMS", Key(kLogKey), ToString(after)}));
    WEFT_ASSIGN_OR_RETURN(const std::vector<RedisReply> news,
                          EntriesOf(address_, std::move(streams)));
    if (MayBeCut(news.size())) {
      WEFT_ASSIGN_OR_RETURN(const RedisReply cut,
                            connection.Ask({"HGET", Key(kSnapshotKey), "cut"}));
      if (NumberOf(cut) > entries) {
        // Entries that this replica has not seen are gone from the log.
        WEFT_RETURN_IF_ERROR(Load(connection));
        continue;
      }
    }
    WEFT_RETURN_IF_ERROR(ApplyNews(news));
  }
}

bool RedisCore::MayBeCut(size_t num_entries) const {
  return num_entries >=
         std::min(Replica::kFewestASnapshot, options_.entries_a_snapshot);
}

void RedisCore::LetReaderRead() {
  if (!writer_reads_) return;
  writer_reads_ = false;
  turn_.notify_one();
}

// Another life of Redis may have forgotten the end of the log: this replica
// then knows more than all that come after.
absl::Status RedisCore::LoadIfNew(RedisConnection& connection) {
  WEFT_ASSIGN_OR_RETURN(const RedisReply info,
                        connection.Ask({"INFO", "server"}));
  const std::string life = LineOf(info.text, "run_id");
  if (!life.empty() && life == redis_life_) return absl::OkStatus();
  WEFT_RETURN_IF_ERROR(Load(connection));
  redis_life_ = life;
  return absl::OkStatus();
}

absl::StatusOr<StateOptions> RedisCore::AgreeOnOptions(
    RedisConnection& connection) {
  StateOptions mine;
  mine.lease_duration = options_.lease_duration;
  mine.attach_within = options_.attach_within;
  // Every join raises it to the time of that join.
  mine.first_number = 1;
  WEFT_RETURN_IF_ERROR(
      connection.Ask({"SET", Key(kOptionsKey), EncodeOptions(mine), "NX"})
          .status());
  WEFT_ASSIGN_OR_RETURN(const RedisReply agreed,
                        connection.Ask({"GET", Key(kOptionsKey)}));
  if (agreed.kind == RedisReply::Kind::kError) {
    const absl::Status refused = RefusedBy(address_, agreed);
    return absl::FailedPreconditionError(refused.message());
  }
  return DecodeOptions(agreed.text);
}

absl::Status RedisCore::Load(RedisConnection& connection) {
  WEFT_ASSIGN_OR_RETURN(const StateOptions options, AgreeOnOptions(connection));
  while (true) {
    WEFT_ASSIGN_OR_RETURN(
        const RedisReply snapshot,
        connection.Ask({"HMGET", Key(kSnapshotKey), "id", "state"}));
    if (snapshot.kind == RedisReply::Kind::kError ||
        snapshot.items.size() != 2) {
      return RefusedBy(address_, snapshot);
    }
    Replica replica(options, options_.entries_a_snapshot);
    EntryId at{0, 0};
    if (snapshot.items[0].kind != RedisReply::Kind::kNil) {
      WEFT_ASSIGN_OR_RETURN(at, ParseEntryId(snapshot.items[0].text));
      WEFT_ASSIGN_OR_RETURN(replica,
                            Replica::Decode(snapshot.items[1].text, options,
                                            options_.entries_a_snapshot));
    }
    std::vector<RedisReply> log;
    WEFT_RETURN_IF_ERROR(ReadRest(connection, at, log));
    WEFT_ASSIGN_OR_RETURN(const RedisReply cut,
                          connection.Ask({"HGET", Key(kSnapshotKey), "cut"}));
    // Two snapshots were written meanwhile, and the log cut behind the first.
    if (NumberOf(cut) > replica.entries()) continue;
    return Install(std::move(replica), at, log);
  }
}

// All entries after `at` that are there.
absl::Status RedisCore::ReadRest(RedisConnection& connection, EntryId at,
                                 std::vector<RedisReply>& log) {
  while (true) {
    WEFT_ASSIGN_OR_RETURN(RedisReply streams,
                          connection.Ask(NewsAfter(Key(kLogKey), at)));
    WEFT_ASSIGN_OR_RETURN(std::vector<RedisReply> entries,
                          EntriesOf(address_, std::move(streams)));
    if (entries.empty()) return absl::OkStatus();
    WEFT_ASSIGN_OR_RETURN(at, EntryIdOf(entries.back()));
    std::move(entries.begin(), entries.end(), std::back_inserter(log));
  }
}

// In one go, so that nobody sees a past that is over: the watches hear only of
// what is other than it was before.
absl::Status RedisCore::Install(Replica loaded, EntryId at,
                                const std::vector<RedisReply>& log) {
  std::vector<std::string> notes;
  VersionWatches::Queues to_wake;
  {
    Answers answers;
    const std::lock_guard lock(mutex_);
    std::map<std::pair<std::string, VersionId>, VersionRecord> before;
    if (replica_ != nullptr) {
      for (VersionRecord& record : replica_->state().ListVersions("")) {
        before[{record.model, record.version}] = std::move(record);
      }
    }
    replica_ = std::make_unique<Replica>(std::move(loaded));
    applied_ = at;
    tick_is_open_ = false;
    if (replica_->HasLeft(server_)) StartNewLife();
    // Answers that lie before the snapshot are not to be had any more.
    while (!open_.empty() &&
           open_.begin()->first <= replica_->LastSequenceOf(server_)) {
      answers.results.emplace_back(
          std::move(open_.begin()->second),
          absl::UnavailableError(
              "the answer was lost; what was asked for is done"));
      open_.erase(open_.begin());
    }
    for (const RedisReply& entry : log) {
      WEFT_RETURN_IF_ERROR(ApplyEntry(entry, notes, answers));
    }
    HandOut();
    to_wake = watches_.Push(Differences(before));
    changed_.notify_all();
  }
  for (const auto& queue : to_wake) queue->Wake();
  return absl::OkStatus();
}

std::vector<VersionRecord> RedisCore::Differences(
    std::map<std::pair<std::string, VersionId>, VersionRecord>& before) {
  std::vector<VersionRecord> changes;
  for (const VersionRecord& record : replica_->state().ListVersions("")) {
    const auto old = before.find({record.model, record.version});
    const bool is_new = old == before.end();
    if (is_new || old->second.state != record.state ||
        old->second.ranks_published != record.ranks_published ||
        old->second.source_set != record.source_set) {
      changes.push_back(record);
    }
    if (!is_new) before.erase(old);
  }
  for (auto& [key, record] : before) {
    if (record.state == VersionState::kGone) continue;
    record.state = VersionState::kGone;
    record.reason = "the catalog's redis has lost it";
    changes.push_back(std::move(record));
  }
  return changes;
}

absl::Status RedisCore::ApplyNews(absl::Span<const RedisReply> news) {
  while (!news.empty()) {
    WEFT_RETURN_IF_ERROR(ApplyEntries(news.subspan(0, kEntriesAtOnce)));
    news.remove_prefix(std::min(news.size(), kEntriesAtOnce));
  }
  return absl::OkStatus();
}

absl::Status RedisCore::ApplyEntries(absl::Span<const RedisReply> entries) {
  std::vector<std::string> notes;
  VersionWatches::Queues to_wake;
  {
    Answers answers;
    const std::lock_guard lock(mutex_);
    for (const RedisReply& entry : entries) {
      WEFT_RETURN_IF_ERROR(ApplyEntry(entry, notes, answers));
    }
    to_wake = watches_.Push(HandOut());
    changed_.notify_all();
  }
  for (const auto& queue : to_wake) queue->Wake();
  if (options_.on_note) {
    for (const std::string& note : notes) options_.on_note(note);
  }
  return absl::OkStatus();
}

absl::Status RedisCore::ApplyEntry(const RedisReply& entry,
                                   std::vector<std::string>& notes,
                                   Answers& answers) {
  WEFT_ASSIGN_OR_RETURN(const EntryId id, EntryIdOf(entry));
  // A field that Weft did not write is an entry that does nothing.
  const std::vector<RedisReply>& fields = entry.items[1].items;
  const bool is_command = fields.size() == 2 && fields[0].text == kEntryField;
  Replica::Outcome outcome = replica_->Apply(is_command ? fields[1].text : "");
  applied_ = id;
  clock_.Raise(replica_->now(), ServerClock::Monotonic::now());
  std::vector<std::string> lines = replica_->state().TakeNotes();
  const bool is_mine = outcome.server == server_;
  if (is_mine) {
    notes.insert(notes.end(), lines.begin(), lines.end());
    if (outcome.sequence == 0) joined_ = true;
  }
  if (!outcome.placed.empty()) {
    AddJob({"PERSIST", Key(PlacementKey(outcome.placed))});
  }
  const auto open =
      is_mine && outcome.result ? open_.find(outcome.sequence) : open_.end();
  if (open != open_.end()) {
    if (open->second->command.kind == Command::Kind::kTick) {
      tick_is_open_ = false;
    }
    answers.results.emplace_back(std::move(open->second),
                                 *std::move(outcome.result));
    open_.erase(open);
  }
  if (outcome.snapshot_due && is_mine) AddSnapshotJob(id);
  if (outcome.left == server_ && !leaving_) StartNewLife();
  return absl::OkStatus();
}

// This server has been declared dead: under a new id it takes back the workers
// that are still attached here, and proposes again what was under way, which
// the log has refused or will.
void RedisCore::StartNewLife() {
  server_ = NewServerId();
  joined_ = false;
  must_join_ = true;
  sent_sequence_ = 0;
  for (const auto& [token, held] : held_) {
    if (held.ends) continue;
    const Registration& worker = held.worker;
    auto proposal = std::make_shared<Proposal>();
    Command& command = proposal->command;
    command.kind = Command::Kind::kReattach;
    command.id = worker.worker_id;
    command.number = worker.generation;
    command.token = token;
    command.flag = true;
    command.sequence = ++last_sequence_;
    command.now_ns = NowNs();
    open_[last_sequence_] = std::move(proposal);
  }
  work_.notify_one();
}

void RedisCore::AddSnapshotJob(EntryId id) {
  AddJob({"EVAL", kSnapshotScript, "2", Key(kSnapshotKey), Key(kLogKey),
          absl::StrCat(replica_->entries()), ToString(id), replica_->Encode()});
}

std::vector<VersionRecord> RedisCore::HandOut() {
  // Every server says so: the one that caused it may be dead.
  for (const auto& dropped : replica_->state().placements().TakeDropped()) {
    AddJob({"UNLINK", Key(PlacementKey(dropped.place))});
  }
  CatalogState& state = replica_->state();
  events_.Append(state.TakeEvents(), state.event_log_id(), state.next_event());
  news_.notify_all();
  return state.TakeChanges();
}

}  // namespace weft::catalog
