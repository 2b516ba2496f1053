// The replica of one catalog server, and its three threads: one writes to
// Redis, one reads the log, one watches the clock and the other servers.
#ifndef WEFT_CATALOG_REDIS_REDIS_CORE_INTERNAL_H_
#define WEFT_CATALOG_REDIS_REDIS_CORE_INTERNAL_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/catalog/redis/redis_connection_internal.h"
#include "weft/catalog/redis/redis_store.h"
#include "weft/catalog/redis/server_clock_internal.h"
#include "weft/catalog/state/event_log.h"
#include "weft/catalog/state/replica.h"
#include "weft/catalog/state/version_watches.h"

namespace weft::catalog {

class RedisCore {
 public:
  RedisCore(RedisAddress address, RedisStoreOptions options);
  ~RedisCore() { Close(); }

  // Waits until the state is there.
  absl::Status Start();
  void Close();

  // Appends the command to the log and waits for its own entry. kUnavailable:
  // it may have been done. With `keep` it is done sooner or later, even if
  // this returns before.
  absl::StatusOr<CommandResult> Propose(Command command,
                                        base::Deadline deadline,
                                        bool keep = false);
  // Until this replica has read all that was in the log at the call, and all
  // that is due by the clock has expired.
  absl::Status CatchUp(base::Deadline deadline);
  // A command that may be done twice: again and again until Redis answers.
  absl::StatusOr<RedisReply> Ask(RedisWords words, base::Deadline deadline);

  // Reads the state as it is here; call CatchUp before.
  template <typename F>
  auto Read(F read) {
    const std::lock_guard lock(mutex_);
    return read(std::as_const(replica_->state()));
  }

  // A new attachment of this server; its worker is taken back when this server
  // has been taken for dead by mistake.
  uint64_t NewToken();
  void Hold(uint64_t token, const Registration& worker);
  // It will not be taken back any more. An update of its worker waits on: what
  // ends it is that the worker detaches, or LetGo.
  void EndHolding(uint64_t token);
  void LetGo(uint64_t token);
  absl::Status Health(const std::string& worker_id, uint64_t token);

  // Of the worker's attachment to this server, if it has one.
  std::optional<uint64_t> TokenOf(const std::string& worker_id);

  // As in Core of the memory store. kUnavailable when the attachment of `token`
  // goes: its worker may go to another server while this one ends, which waits
  // for its calls.
  absl::StatusOr<bool> AwaitRetired(const std::string& worker_id,
                                    const CatalogState::VersionKey& key,
                                    std::optional<uint64_t> token,
                                    base::Deadline deadline);
  absl::StatusOr<EventPage> AwaitEvents(const EventQuery& query,
                                        base::Deadline deadline);
  absl::StatusOr<std::shared_ptr<VersionQueue>> Subscribe(
      const std::string& model, base::Deadline deadline);
  void Unsubscribe(const std::string& model,
                   const std::shared_ptr<VersionQueue>& queue);

  std::string Key(const std::string& name) const;
  int64_t NowNs() const;

 private:
  // Of an entry of the log: milliseconds, number within.
  using EntryId = std::pair<uint64_t, uint64_t>;
  // The result has a lock of its own: who wakes for it needs none that others
  // want.
  struct Proposal {
    Command command;

    void Answer(absl::StatusOr<CommandResult> with);
    void Close();  // no answer comes
    std::optional<absl::StatusOr<CommandResult>> Await(base::Deadline deadline);

   private:
    std::mutex mutex_;
    std::condition_variable done_;
    bool closed_ = false;
    std::optional<absl::StatusOr<CommandResult>> result_;
  };
  // Gives the answers when it goes, which is after mutex_ has been let go.
  struct Answers {
    std::vector<
        std::pair<std::shared_ptr<Proposal>, absl::StatusOr<CommandResult>>>
        results;
    ~Answers() {
      for (auto& [proposal, result] : results) {
        proposal->Answer(std::move(result));
      }
    }
  };
  // Sent again after a reconnect unless it has been answered or given up.
  struct Job {
    RedisWords words;
    std::optional<RedisReply> reply;
    bool given_up = false;
  };
  struct Batch {
    bool joins = false;
    std::optional<EntryId> reads_after;
    std::vector<std::pair<uint64_t, std::string>> proposals;  // by sequence
    std::vector<std::shared_ptr<Job>> jobs;

    bool empty() const {
      return !joins && !reads_after && proposals.empty() && jobs.empty();
    }
  };

  struct Held {
    Registration worker;
    bool ends = false;
  };

  // The writer.
  void RunWriter();
  // Until the connection breaks: whether Redis has taken anything over it.
  bool ServeWriter(RedisConnection& connection);
  Batch TakeBatch();
  bool HasWork() const;  // mutex_ is held
  absl::Status ReadAlong(RedisConnection& connection);
  absl::Status SendBatch(RedisConnection& connection, const Batch& batch);
  void FinishProposal(uint64_t sequence, absl::StatusOr<CommandResult> result);
  void AddJob(RedisWords words);  // mutex_ is held
  // What keeps the writer from Redis, or OK.
  void NoteTrouble(const absl::Status& status);
  // By Redis, on the first connection.
  absl::Status SetClock(RedisConnection& connection);

  // The reader.
  void RunReader();
  // Of whoever reads, the reader or the writer.
  absl::Status ApplyNews(absl::Span<const RedisReply> news);
  absl::Status ApplyEntries(absl::Span<const RedisReply> entries);
  // Behind a cut lies all that came from one snapshot to the next, at least.
  bool MayBeCut(size_t num_entries) const;
  absl::Status ServeReader(RedisConnection& connection);
  absl::Status LoadIfNew(RedisConnection& connection);
  absl::Status Load(RedisConnection& connection);
  absl::StatusOr<StateOptions> AgreeOnOptions(RedisConnection& connection);
  absl::Status ReadRest(RedisConnection& connection, EntryId at,
                        std::vector<RedisReply>& log);
  absl::Status Install(Replica loaded, EntryId at,
                       const std::vector<RedisReply>& log);
  // mutex_ is held by all below.
  void LetReaderRead();
  std::vector<VersionRecord> Differences(
      std::map<std::pair<std::string, VersionId>, VersionRecord>& before);
  absl::Status ApplyEntry(const RedisReply& entry,
                          std::vector<std::string>& notes, Answers& answers);
  void StartNewLife();
  void AddSnapshotJob(EntryId id);

  // The keeper.
  void RunKeeper();
  void CheckServers();

  // Drops bytes from Redis that nobody needs any more, and keeps the events.
  // What has changed.
  std::vector<VersionRecord> HandOut();
  base::Deadline Patient(base::Deadline deadline) const;
  absl::Status Away(base::Deadline deadline) const;
  bool WaitUnlessClosed(std::chrono::nanoseconds time);

  const RedisAddress address_;
  const RedisStoreOptions options_;
  ServerClock clock_;

  std::mutex mutex_;
  std::condition_variable changed_;  // entries, answers, closed
  std::condition_variable news_;     // events, closed
  std::condition_variable ending_;   // closed
  std::condition_variable work_;     // for the writer
  std::condition_variable turn_;     // for the reader
  bool closed_ = false;
  bool leaving_ = false;
  std::unique_ptr<Replica> replica_;  // nullptr until it was loaded
  absl::Status load_status_;
  EntryId applied_{0, 0};
  std::string server_;   // this server's id in the log
  bool joined_ = false;  // as server_
  uint64_t last_sequence_ = 0;
  uint64_t sent_sequence_ = 0;
  // While several callers wait, the writer asks for the log's news along with
  // what it writes, and the reader sleeps: one thread and one exchange with
  // Redis a batch in place of two and three.
  bool writer_reads_ = false;
  bool must_join_ = true;
  bool must_beat_ = false;
  std::map<uint64_t, std::shared_ptr<Proposal>> open_;  // by sequence
  std::deque<std::shared_ptr<Job>> jobs_;
  bool tick_is_open_ = false;
  uint64_t last_token_ = 0;
  std::map<uint64_t, Held> held_;  // by token
  VersionWatches watches_;
  // Outlives replicas: what was read before a new one is not lost.
  EventLog events_;
  RedisConnection* writing_ = nullptr;
  std::string trouble_;  // why the writer cannot write; empty: it can
  RedisConnection* reading_ = nullptr;
  std::string redis_life_;  // Redis's run id; reader only
  std::optional<base::Deadline::Clock::time_point> connected_since_;
  std::map<std::string, std::shared_ptr<Job>> server_checks_;
  std::vector<std::thread> threads_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_REDIS_REDIS_CORE_INTERNAL_H_
