// weft chaos: kills, stops, cuts off and slows everything at every step of the
// protocol, and reads what engines serve.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "chaos_events.h"
#include "chaos_fleet.h"
#include "chaos_report.h"
#include "chaos_soak.h"
#include "chaos_trial.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "weft/base/status.h"
#include "work_dir.h"

namespace weft::apps {
namespace {

// Memory of engines, and what Redis keeps.
constexpr uint64_t kWorkBytes = uint64_t{256} << 20;

// Logs are read from their beginning after each trial.
constexpr int kTrialsOfALog = 64;

struct ChaosArgs {
  int64_t trials = 60;
  int64_t only = -1;
  int64_t soak = 0;
  uint64_t seed = 0;  // 0: of the clock
  std::vector<std::string> roles;
  std::vector<std::string> faults;
  std::vector<std::string> steps;
  std::vector<std::string> fleets;
  std::string logs = "build/chaos";
  std::string check_events;
  std::string broken;
  double margin_seconds = 5;
  double heal_seconds = 60;
  bool json = false;
};

std::string FindRedis() {
  const char* const path = std::getenv("PATH");
  const std::vector<std::string> folders =
      absl::StrSplit(path == nullptr ? "" : path, ':');
  for (const std::string& folder : folders) {
    const std::string program = absl::StrCat(folder, "/redis-server");
    if (access(program.c_str(), X_OK) == 0) return program;
  }
  return "";
}

// Every kind has a fleet of its own, side by side: most of a trial is waiting.
std::vector<ChaosFleetOptions> FleetKinds(const ChaosArgs& args) {
  const std::string redis = FindRedis();
  const std::string stages = "megatron:tp=1,pp=2";
  const std::string replicas = "fsdp:shard=1,replicate=2";
  std::vector<ChaosFleetOptions> kinds(4);
  const char* const names[] = {"stages-shm", "replicas-redis-shm",
                               "replicas-ucx", "stages-redis-ucx"};
  for (size_t i = 0; i < kinds.size(); ++i) {
    kinds[i].name = names[i];
    kinds[i].trainers = i == 0 || i == 3 ? stages : replicas;
    // Engines that hold the same read from each other.
    kinds[i].engines_serve = i != 0;
    kinds[i].engines = kinds[i].engines_serve ? "vllm:dp=2" : "vllm:tp=2";
    kinds[i].transport = i < 2 ? "shm" : "ucx";
    kinds[i].keep_events = !args.check_events.empty();
    kinds[i].broken = args.broken;
    kinds[i].margin_seconds = args.margin_seconds;
    if (i % 2 == 1) {
      kinds[i].redis_server = redis;
      kinds[i].num_catalogs = redis.empty() ? 1 : 2;
    }
  }
  return kinds;
}

bool Wanted(const std::vector<std::string>& filter, const std::string& name) {
  return filter.empty() ||
         std::find(filter.begin(), filter.end(), name) != filter.end();
}

// The part of the matrix that a fleet of this kind can be tried in.
std::vector<ChaosCell> CellsOf(const ChaosFleetOptions& kind,
                               const ChaosArgs& args) {
  const bool replicas = kind.trainers.find("replicate") != std::string::npos;
  std::vector<ChaosCell> cells;
  if (!Wanted(args.fleets, kind.name)) return cells;
  for (const std::string& step : ChaosSteps()) {
    for (const std::string& role : ChaosRoles()) {
      if (role == (replicas ? "publisher" : "replica")) continue;
      if (role == "redis" && kind.redis_server.empty()) continue;
      for (const std::string& fault : ChaosFaultNames()) {
        const ChaosCell cell{step, role, fault};
        if (CanStrike(cell) && Wanted(args.steps, step) &&
            Wanted(args.roles, role) && Wanted(args.faults, fault)) {
          cells.push_back(cell);
        }
      }
    }
  }
  return cells;
}

struct Task {
  int64_t trial = 0;
  ChaosCell cell;
};

// The trials of each kind of fleet. Cells come round in an order that the seed
// shuffles, so that all are tried before any is tried twice.
absl::StatusOr<std::vector<std::vector<Task>>> Deal(
    const std::vector<ChaosFleetOptions>& kinds, const ChaosArgs& args) {
  std::mt19937_64 random(args.seed);
  std::vector<size_t> useful;
  std::vector<std::vector<ChaosCell>> cells;
  for (size_t i = 0; i < kinds.size(); ++i) {
    cells.push_back(CellsOf(kinds[i], args));
    std::shuffle(cells[i].begin(), cells[i].end(), random);
    if (!cells[i].empty()) useful.push_back(i);
  }
  if (useful.empty()) {
    return absl::InvalidArgumentError(
        "no cell of the matrix is left; --role redis needs redis-server");
  }
  std::vector<std::vector<Task>> tasks(kinds.size());
  for (int64_t trial = 0; trial < args.trials; ++trial) {
    const size_t kind = useful[static_cast<size_t>(trial) % useful.size()];
    const auto round = static_cast<size_t>(trial) / useful.size();
    if (args.only >= 0 && trial != args.only) continue;
    tasks[kind].push_back({trial, cells[kind][round % cells[kind].size()]});
  }
  return tasks;
}

class Runner {
 public:
  explicit Runner(const ChaosArgs& args) : args_(args) {}

  absl::StatusOr<std::vector<ChaosOutcome>> Run() {
    const std::vector<ChaosFleetOptions> kinds = FleetKinds(args_);
    WEFT_ASSIGN_OR_RETURN(const auto tasks, Deal(kinds, args_));
    WEFT_ASSIGN_OR_RETURN(work_, WorkDir::Make("weft_chaos", kWorkBytes));
    std::vector<std::thread> threads;
    for (size_t i = 0; i < kinds.size(); ++i) {
      if (tasks[i].empty()) continue;
      ++running_;
      threads.emplace_back([this, &kinds, &tasks, i] {
        RunKind(kinds[i], tasks[i]);
        --running_;
      });
    }
    WaitForThreads();
    for (std::thread& thread : threads) thread.join();
    WEFT_RETURN_IF_ERROR(failure_);
    std::sort(outcomes_.begin(), outcomes_.end(),
              [](const auto& a, const auto& b) { return a.trial < b.trial; });
    return outcomes_;
  }

 private:
  // SIGINT and SIGTERM are blocked in all threads.
  void WaitForThreads() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    const timespec moment{0, 200'000'000};
    while (running_ > 0) {
      if (sigtimedwait(&signals, nullptr, &moment) > 0) stop_ = true;
    }
  }

  void RunKind(ChaosFleetOptions kind, const std::vector<Task>& tasks) {
    std::unique_ptr<ChaosFleet> fleet;
    int life = 0;
    int trials_of_log = 0;
    for (const Task& task : tasks) {
      if (stop_) break;
      if (kind.keep_events && trials_of_log == kTrialsOfALog) fleet.reset();
      if (fleet == nullptr) {
        // The last one's files are of no use to a new fleet.
        kind.work_dir =
            absl::StrCat(work_->path(), "/", kind.name, ".", life++);
        std::filesystem::create_directories(kind.work_dir);
        auto started = ChaosFleet::Start(kind);
        if (!started.ok()) {
          Fail(started.status());
          break;
        }
        fleet = *std::move(started);
        trials_of_log = 0;
      }
      ++trials_of_log;
      std::seed_seq seeds{args_.seed, args_.seed >> 32,
                          static_cast<uint64_t>(task.trial)};
      std::mt19937_64 random(seeds);
      absl::StatusOr<ChaosOutcome> outcome =
          RunChaosTrial(task.cell, random,
                        {.heal_seconds = args_.heal_seconds,
                         .check_events = args_.check_events},
                        *fleet);
      if (!outcome.ok()) {
        Fail(outcome.status());
        break;
      }
      outcome->trial = task.trial;
      outcome->fleet = kind.name;
      // Whatever is wrong with it shall not spoil the next trial.
      std::vector<std::string> events;
      if (!outcome->ok()) {
        events = fleet->EventLogs();
        fleet.reset();
      }
      Tell(*std::move(outcome), events);
    }
  }

  // Ends the run: what was to be tried could not be.
  void Fail(absl::Status status) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(status);
    stop_ = true;
  }

  void Tell(ChaosOutcome outcome, const std::vector<std::string>& events) {
    const std::lock_guard lock(mutex_);
    nlohmann::json line = ToJson(outcome);
    if (!outcome.ok()) {
      const std::string path =
          absl::StrCat(args_.logs, "/", args_.seed, "-", outcome.trial, ".log");
      std::filesystem::create_directories(args_.logs);
      std::ofstream(path) << absl::StrJoin(outcome.log, "\n") << "\n";
      KeepEvents(events, path);
      line["log"] = path;
      const std::string filters = absl::StrCat(
          Repeat("--role", args_.roles), Repeat("--fault", args_.faults),
          Repeat("--step", args_.steps), Repeat("--fleet", args_.fleets),
          args_.check_events.empty() ? "" : " --check-events ",
          args_.check_events);
      line["repeat"] =
          absl::StrCat("weft chaos --seed ", args_.seed, " --trials ",
                       args_.trials, " --only ", outcome.trial, filters);
      if (!args_.json) {
        PrintLine(absl::StrCat(
            "trial ", outcome.trial, ", ", outcome.cell.fault, " of ",
            outcome.cell.role, " at ", outcome.cell.step, ": torn ",
            outcome.torn, ", hangs ", outcome.hangs, ", rules broken ",
            outcome.rules_broken, outcome.healed ? ", healed" : ", NOT healed",
            "; log ", path, "; ", line["repeat"].get<std::string>()));
      }
    }
    if (args_.json) PrintLine(line.dump());
    outcome.log.clear();
    outcomes_.push_back(std::move(outcome));
  }

  // Beside the log of a trial that failed.
  static void KeepEvents(const std::vector<std::string>& events,
                         const std::string& path) {
    std::error_code absent;  // of a catalog that never came up
    for (size_t i = 0; i < events.size(); ++i) {
      std::filesystem::copy_file(
          events[i], absl::StrCat(path, ".events", i, ".jsonl"),
          std::filesystem::copy_options::overwrite_existing, absent);
    }
  }

  static std::string Repeat(const char* option,
                            const std::vector<std::string>& values) {
    std::string text;
    for (const std::string& value : values) {
      absl::StrAppend(&text, " ", option, " ", value);
    }
    return text;
  }

  const ChaosArgs& args_;
  std::unique_ptr<WorkDir> work_;
  std::atomic<bool> stop_{false};
  std::atomic<int> running_{0};
  std::mutex mutex_;
  std::vector<ChaosOutcome> outcomes_;  // guarded by mutex_, as is failure_
  absl::Status failure_;
};

absl::StatusOr<bool> SoakFleet(const ChaosArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<WorkDir> work,
                        WorkDir::Make("weft_chaos", kWorkBytes));
  ChaosFleetOptions kind = FleetKinds(args)[1];
  kind.num_engines = 2;
  kind.work_dir = work->path();
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<ChaosFleet> fleet,
                        ChaosFleet::Start(kind));
  std::mt19937_64 random(args.seed);
  absl::StatusOr<SoakReport> report = RunSoak(
      *fleet, args.soak,
      std::chrono::milliseconds(static_cast<int64_t>(args.heal_seconds * 1000)),
      random);
  if (report.ok() && !args.check_events.empty()) {
    WEFT_ASSIGN_OR_RETURN(report->rules_broken,
                          CheckEvents(args.check_events, fleet->EventLogs()));
  }
  if (!report.ok() || !report->ok()) {
    std::filesystem::create_directories(args.logs);
    std::ofstream(absl::StrCat(args.logs, "/", args.seed, "-soak.log"))
        << absl::StrJoin(fleet->log(), "\n") << "\n";
  }
  WEFT_RETURN_IF_ERROR(report.status());
  if (args.json) {
    nlohmann::json line = ToJson(*report);
    line["seed"] = args.seed;
    PrintLine(line.dump());
  } else {
    PrintLine(FormatSoak(*report));
  }
  return report->ok();
}

absl::StatusOr<bool> Chaos(ChaosArgs args) {
  if (args.seed == 0) args.seed = std::random_device{}();
  if (!args.check_events.empty()) {
    args.check_events = std::filesystem::absolute(args.check_events);
  }
  if (args.soak > 0) return SoakFleet(args);
  if (!args.json) {
    PrintLine(absl::StrCat(args.trials, " trials, seed ", args.seed));
  }
  WEFT_ASSIGN_OR_RETURN(const std::vector<ChaosOutcome> outcomes,
                        Runner(args).Run());
  const ChaosSummary summary = SumUp(outcomes);
  if (args.json) {
    nlohmann::json line = ToJson(summary);
    line["seed"] = args.seed;
    PrintLine(line.dump());
  } else {
    PrintLine(FormatChaos(outcomes, summary));
  }
  return summary.ok();
}

}  // namespace

void AddChaos(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<ChaosArgs>();
  CLI::App* command = app.add_subcommand(
      "chaos", "Kill, stop and cut off everything, and read what is served");
  command->footer("example: weft chaos --trials 60 --role catalog");
  command->add_option("--trials", args->trials, "how many")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  command->add_option("--soak", args->soak,
                      "instead: this many refits of one fleet, whose members "
                      "join, leave and fail; nothing may grow");
  command->add_option("--seed", args->seed, "repeats the choice of trials");
  command->add_option("--only", args->only, "this trial of them alone");
  command->add_option("--role", args->roles, "who is struck, repeatable")
      ->check(CLI::IsMember(ChaosRoles()));
  command->add_option("--fault", args->faults, "by what, repeatable")
      ->check(CLI::IsMember(ChaosFaultNames()));
  command->add_option("--step", args->steps, "at which step, repeatable")
      ->check(CLI::IsMember(ChaosSteps()));
  command->add_option("--fleet", args->fleets, "in which fleet, repeatable");
  command
      ->add_option("--logs", args->logs, "folder for logs of trials that fail")
      ->capture_default_str();
  command
      ->add_option("--check-events", args->check_events,
                   "run after each trial with the catalogs' event logs: "
                   "scripts/check_events.py")
      ->check(CLI::ExistingFile);
  command
      ->add_option("--margin", args->margin_seconds,
                   "seconds past its deadline after which a call hangs")
      ->capture_default_str();
  command
      ->add_option("--heal", args->heal_seconds,
                   "seconds within which all engines must serve anew")
      ->capture_default_str();
  command
      ->add_option("--broken", args->broken,
                   "break the ranks: blind (trainers change what is read, "
                   "digests are off), unfenced (serve after failed refits)")
      ->check(CLI::IsMember({"blind", "unfenced"}))
      ->group("Testing");
  command->add_flag("--json", args->json, "one JSON object a line");
  command->callback([args, exit_code] {
    BlockStopSignals();
    const absl::StatusOr<bool> ok = Chaos(*args);
    *exit_code = !ok.ok() ? Fail("chaos", ok.status(), args->json)
                 : *ok    ? 0
                          : 1;
  });
}

}  // namespace weft::apps
