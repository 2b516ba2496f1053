// A small fleet of real processes for `weft chaos`: trainers that change all
// weights all the time, engines that refit without pause, catalogs, perhaps a
// Redis, each reached through links that can be made bad. The fleet reads the
// memory of every engine after each commit and each failure, restarts whoever
// ended as a supervisor would, and measures every call against its deadline.
#ifndef WEFT_APPS_CHAOS_FLEET_H_
#define WEFT_APPS_CHAOS_FLEET_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "chaos_relay.h"
#include "chaos_weights.h"
#include "child_process.h"

namespace weft::apps {

struct ChaosFleetOptions {
  std::string name;
  std::string trainers;  // layouts
  std::string engines;
  int num_trainers = 2;
  int num_engines = 2;
  std::string transport = "shm";
  int num_catalogs = 1;      // 2 need a Redis
  std::string redis_server;  // the program; empty: the catalog keeps it all
  std::string work_dir;
  bool engines_serve = false;  // what they have committed, to each other
  bool keep_events = false;    // of each catalog, in work_dir
  std::string broken;          // "blind" or "unfenced": made to fail, for tests
  double margin_seconds = 5;
};

enum class ChaosKind { kTrainer, kEngine, kCatalog, kRedis };

// What went wrong; all zero in a sound system.
struct ChaosFaults {
  int64_t torn = 0;
  int64_t hangs = 0;
};

class ChaosFleet {
 public:
  using Clock = std::chrono::steady_clock;

  struct Member {
    ChaosKind kind = ChaosKind::kTrainer;
    int index = 0;
    std::string label;  // "engine 1"
    int port = 0;       // catalogs and Redis
    // To the catalogs; of a catalog, to its Redis.
    std::vector<std::unique_ptr<ChaosRelay>> links;

    std::unique_ptr<ChildProcess> process;
    std::thread reader;
    int life = 0;  // counts its processes
    bool up = false;
    bool keep_down = false;      // killed by a trial, which will start it again
    Clock::time_point start_at;  // when it is not running
    bool stopped = false;
    bool throttled = false;
    bool throttled_now = false;
    bool parked = false;
    std::string parked_at;
    std::string park_next;       // --park of the next process
    const char* call = nullptr;  // under way
    double call_seconds = 0;
    Clock::time_point call_since;
    // Engines.
    manifest::Placement placement;
    std::unique_ptr<SharedRankFile> memory;
    std::optional<std::pair<uint64_t, uint64_t>> committed;  // epoch, step
    int64_t commits = 0;
    std::optional<Clock::time_point> refit_at;  // it waits until then
  };

  // Starts everything and waits until all engines have committed.
  static absl::StatusOr<std::unique_ptr<ChaosFleet>> Start(
      ChaosFleetOptions options);
  ~ChaosFleet();
  ChaosFleet(const ChaosFleet&) = delete;
  ChaosFleet& operator=(const ChaosFleet&) = delete;

  // Lets it live until `done` (asked after each event) or for `limit`; false
  // if it was never done.
  bool Live(std::chrono::milliseconds limit, const std::function<bool()>& done);

  std::vector<Member*> Members(ChaosKind kind);
  // The next time that `member` passes `phase` but `skip` times it waits there.
  void Park(Member& member, const std::string& phase, int skip);
  void Resume(Member& member);
  void Kill(Member& member);
  // An engine ends in good order after its refit; StartAgain brings it back.
  void Leave(Member& engine);
  // Ends it and starts it again, held at `phase` if that is not empty.
  void Restart(Member& member, const std::string& phase);
  void StartAgain(Member& member);  // that was killed
  void Stop(Member& member, bool stopped);
  void Throttle(Member& member, bool on);  // runs one tenth of the time
  static void SetLinks(Member& member, ChaosRelay::Mode mode);
  // Links from all ranks to a catalog, or from all catalogs to Redis.
  void SetLinksTo(Member& member, ChaosRelay::Mode mode);
  // Ends all trainers and starts them again in the next epoch.
  void NextEpoch();

  // The newest step that any trainer was told to take.
  uint64_t step() const { return step_; }
  // All engines serve something newer than `step`.
  bool AllBeyond(uint64_t step);
  int64_t commits() const { return commits_; }  // of all engines
  // Of these, with bytes from an engine that had committed before.
  int64_t commits_from_copies() const { return commits_from_copies_; }
  // Of processes that ended by themselves.
  int64_t restarts() const { return restarts_; }
  ChaosFaults& faults() { return faults_; }
  std::vector<std::string>& log() { return log_; }
  void Log(const std::string& line);
  // What the catalogs have written of what happened; none unless kept.
  std::vector<std::string> EventLogs();
  // "engine 1: up, call refit for 0.3 s, ..." of everyone.
  std::string Describe();

 private:
  struct Event {
    Member* member = nullptr;
    int life = 0;
    std::optional<std::string> line;  // nullopt: it has ended
    std::string end;
  };

  explicit ChaosFleet(ChaosFleetOptions options)
      : options_(std::move(options)) {}
  absl::Status AddMembers();
  absl::Status AddLinks(Member& member, ChaosKind to);
  std::vector<std::string> Command(Member& member);
  std::string EventLog(const Member& catalog) const;
  void Launch(Member& member);
  void Read(Member& member);
  void Handle(const Event& event);
  void HandleLine(Member& member, const std::string& line);
  void HandleEnd(Member& member, const std::string& why);
  void CheckMemory(Member& engine, bool fenced);
  void Tick();
  void DriveTrainers(Clock::time_point now);
  void Send(Member& member, const std::string& line, const char* call,
            double seconds);
  void Torn(Member& engine, const std::string& what);
  void End(Member& member);

  const ChaosFleetOptions options_;
  std::vector<std::unique_ptr<Member>> members_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Event> events_;  // guarded by mutex_
  uint64_t step_ = 0;
  uint64_t epoch_ = 0;
  Clock::time_point next_step_;
  const Clock::time_point born_ = Clock::now();
  int64_t commits_ = 0;
  int64_t commits_from_copies_ = 0;
  int64_t restarts_ = 0;
  ChaosFaults faults_;
  std::vector<std::string> log_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_FLEET_H_
