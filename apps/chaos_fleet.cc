#include "chaos_fleet.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "chaos_rank.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kBetweenSteps(25);
// Where engines serve: time to be read.
constexpr milliseconds kBetweenStepsOfCopies(100);
constexpr milliseconds kBehindOthers(300);
constexpr milliseconds kBeforeRestart(100);
// A throttled process runs this long out of ten.
constexpr milliseconds kThrottleSlice(10);
// BeginUpdate has no deadline of its own: it revokes after a while, and a
// catalog that is gone is missed (4 s) and tried again (10 s).
constexpr double kStepSeconds = kRevokeSeconds + 4 + 10 + kPublishSeconds;
// A refit that failed at its deadline gives its lease back within 2 s.
constexpr double kRefitCallSeconds = kRefitSeconds + 2;
constexpr double kStartSeconds = kCreateSeconds + kPublishSeconds + 5;

const char* NameOf(ChaosKind kind) {
  switch (kind) {
    case ChaosKind::kTrainer:
      return "trainer";
    case ChaosKind::kEngine:
      return "engine";
    case ChaosKind::kCatalog:
      return "catalog";
    case ChaosKind::kRedis:
      return "redis";
  }
  return "";
}

double Seconds(ChaosFleet::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChaosFleet>> ChaosFleet::Start(
    ChaosFleetOptions options) {
  std::unique_ptr<ChaosFleet> fleet(new ChaosFleet(std::move(options)));
  WEFT_RETURN_IF_ERROR(fleet->AddMembers());
  for (const auto& member : fleet->members_) fleet->Launch(*member);
  ChaosFleet* const raw = fleet.get();
  if (!fleet->Live(std::chrono::seconds(60),
                   [raw] { return raw->AllBeyond(0); })) {
    return absl::DeadlineExceededError(absl::StrCat(
        "fleet ", fleet->options_.name, " did not come up in 60 s:\n",
        fleet->Describe(), "\n", absl::StrJoin(fleet->log_, "\n")));
  }
  return fleet;
}

ChaosFleet::~ChaosFleet() {
  for (const auto& member : members_) End(*member);
}

absl::Status ChaosFleet::AddMembers() {
  const auto add = [this](ChaosKind kind, int count) {
    for (int i = 0; i < count; ++i) {
      auto member = std::make_unique<Member>();
      member->kind = kind;
      member->index = i;
      member->label = absl::StrCat(NameOf(kind), " ", i);
      members_.push_back(std::move(member));
    }
  };
  add(ChaosKind::kRedis, options_.redis_server.empty() ? 0 : 1);
  add(ChaosKind::kCatalog, options_.num_catalogs);
  add(ChaosKind::kTrainer, options_.num_trainers);
  add(ChaosKind::kEngine, options_.num_engines);
  for (const auto& member : members_) {
    switch (member->kind) {
      case ChaosKind::kRedis: {
        WEFT_ASSIGN_OR_RETURN(member->port, FreePort());
        break;
      }
      case ChaosKind::kCatalog: {
        WEFT_ASSIGN_OR_RETURN(member->port, FreePort());
        WEFT_RETURN_IF_ERROR(AddLinks(*member, ChaosKind::kRedis));
        break;
      }
      case ChaosKind::kEngine: {
        WEFT_ASSIGN_OR_RETURN(member->placement,
                              ChaosPlacement(options_.engines, member->index));
        WEFT_RETURN_IF_ERROR(AddLinks(*member, ChaosKind::kCatalog));
        break;
      }
      case ChaosKind::kTrainer:
        WEFT_RETURN_IF_ERROR(AddLinks(*member, ChaosKind::kCatalog));
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status ChaosFleet::AddLinks(Member& member, ChaosKind to) {
  for (Member* const server : Members(to)) {
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<ChaosRelay> link,
                          ChaosRelay::Start(server->port));
    member.links.push_back(std::move(link));
  }
  return absl::OkStatus();
}

std::vector<std::string> ChaosFleet::Command(Member& member) {
  const std::string port = absl::StrCat(member.port);
  if (member.kind == ChaosKind::kRedis) {
    return {options_.redis_server,
            "--port",
            port,
            "--bind",
            "127.0.0.1",
            "--dir",
            options_.work_dir,
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always"};
  }
  if (member.kind == ChaosKind::kCatalog) {
    const std::string store =
        member.links.empty()
            ? "memory"
            : absl::StrCat("redis://", member.links[0]->address(), "/chaos");
    std::vector<std::string> words = {
        SelfPath(), "catalog", "--listen", absl::StrCat("127.0.0.1:", port),
        "--store",  store,     "--json"};
    if (options_.keep_events) {
      words.insert(words.end(), {"--events", EventLog(member)});
    }
    return words;
  }
  std::vector<std::string> addresses;
  for (const auto& link : member.links) addresses.push_back(link->address());
  const bool trainer = member.kind == ChaosKind::kTrainer;
  std::vector<std::string> words = {
      SelfPath(),    "chaos-rank",
      "--kind",      NameOf(member.kind),
      "--catalog",   absl::StrJoin(addresses, ","),
      "--layout",    trainer ? options_.trainers : options_.engines,
      "--rank",      absl::StrCat(member.index),
      "--transport", options_.transport};
  if (!options_.broken.empty()) {
    words.insert(words.end(), {"--broken", options_.broken});
  }
  if (!member.park_next.empty()) {
    words.insert(words.end(), {"--park", std::exchange(member.park_next, "")});
  }
  if (trainer) {
    // A number that no other rank is told: steps of a rank grow over its
    // restarts too.
    words.insert(words.end(), {"--epoch", absl::StrCat(epoch_), "--step",
                               absl::StrCat(++step_)});
  } else {
    words.insert(words.end(),
                 {"--memory-file",
                  absl::StrCat(options_.work_dir, "/engine", member.index)});
    if (options_.engines_serve) words.push_back("--serve");
  }
  return words;
}

std::string ChaosFleet::EventLog(const Member& catalog) const {
  return absl::StrCat(options_.work_dir, "/events", catalog.index, ".jsonl");
}

std::vector<std::string> ChaosFleet::EventLogs() {
  std::vector<std::string> files;
  if (!options_.keep_events) return files;
  for (const Member* const catalog : Members(ChaosKind::kCatalog)) {
    files.push_back(EventLog(*catalog));
  }
  return files;
}

void ChaosFleet::Launch(Member& member) {
  member.committed.reset();
  member.refit_at.reset();
  member.memory.reset();
  member.up = member.stopped = member.parked = false;
  ++member.life;
  absl::StatusOr<std::unique_ptr<ChildProcess>> process =
      ChildProcess::Start(member.label, Command(member));
  if (!process.ok()) {
    Log(std::string(process.status().message()));
    member.start_at = Clock::now() + kBeforeRestart;
    return;
  }
  member.process = *std::move(process);
  Log(absl::StrCat(member.label, " starts, pid ", member.process->pid()));
  member.call = "start";
  member.call_seconds = kStartSeconds;
  member.call_since = Clock::now();
  member.reader = std::thread([this, &member] { Read(member); });
}

void ChaosFleet::Read(Member& member) {
  ChildProcess& process = *member.process;
  const int life = member.life;
  bool ended = false;
  while (!ended) {
    absl::StatusOr<std::string> line =
        process.ReadLine(base::Deadline::After(std::chrono::hours(24)));
    Event event{&member, life, std::nullopt, ""};
    ended = !line.ok();
    if (ended) {
      event.end = std::string(line.status().message());
    } else {
      event.line = *std::move(line);
    }
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    arrived_.notify_one();
  }
}

void ChaosFleet::End(Member& member) {
  if (member.process == nullptr) return;
  member.process->Kill(SIGKILL);
  if (member.reader.joinable()) member.reader.join();
  member.process.reset();
  member.up = member.stopped = member.parked = false;
  member.throttled = member.throttled_now = false;
  member.call = nullptr;
}

std::vector<ChaosFleet::Member*> ChaosFleet::Members(ChaosKind kind) {
  std::vector<Member*> found;
  for (const auto& member : members_) {
    if (member->kind == kind) found.push_back(member.get());
  }
  return found;
}

bool ChaosFleet::Live(milliseconds limit, const std::function<bool()>& done) {
  const Clock::time_point end = Clock::now() + limit;
  while (!done()) {
    if (Clock::now() >= end) return false;
    std::deque<Event> events;
    {
      std::unique_lock lock(mutex_);
      arrived_.wait_for(lock, milliseconds(5),
                        [this] { return !events_.empty(); });
      events.swap(events_);
    }
    for (const Event& event : events) Handle(event);
    Tick();
  }
  return true;
}

void ChaosFleet::Handle(const Event& event) {
  Member& member = *event.member;
  if (event.life != member.life || member.process == nullptr) return;
  if (event.line.has_value()) {
    HandleLine(member, *event.line);
  } else {
    HandleEnd(member, event.end);
  }
}

void ChaosFleet::HandleEnd(Member& member, const std::string& why) {
  Log(why);
  End(member);
  if (!member.keep_down) ++restarts_;
  member.start_at = Clock::now() + kBeforeRestart;
}

void ChaosFleet::HandleLine(Member& member, const std::string& line) {
  if (member.kind == ChaosKind::kRedis) {
    if (!absl::StrContains(line, "Ready to accept")) return;
    member.up = true;
    member.call = nullptr;
    return;
  }
  const json event = json::parse(line, nullptr, false);
  if (event.is_discarded()) {
    Log(absl::StrCat(member.label, " printed no JSON: ", line));
    return;
  }
  Log(absl::StrCat(member.label, ": ", line));
  const std::string name = event.value("event", "");
  if (name == "parked") {
    member.parked = true;
    member.parked_at = event.value("phase", "");
    if (member.kind == ChaosKind::kEngine && member.memory != nullptr) {
      CheckMemory(member, event.value("fenced", true));
    }
    return;
  }
  if (!event.contains("event")) return;  // the error that ends it
  member.call = nullptr;
  if (name == "up" || name == "listening") member.up = true;
  if (member.kind != ChaosKind::kEngine) return;
  if (name == "up") {
    auto memory = SharedRankFile::Open(
        absl::StrCat(options_.work_dir, "/engine", member.index),
        member.placement, /*create=*/false);
    if (memory.ok()) member.memory = *std::move(memory);
  }
  if (name == "committed") {
    const auto version = std::pair(event.value("epoch", uint64_t{0}),
                                   event.value("step", uint64_t{0}));
    if (member.committed.has_value() && version <= *member.committed) {
      Torn(member, absl::StrCat("went back to ", line));
    }
    member.committed = version;
    ++commits_;
    if (event.value("from_copy", false)) ++commits_from_copies_;
    ++member.commits;
  }
  if (name != "up") CheckMemory(member, event.value("fenced", true));
  member.refit_at = Clock::now();
  if (!options_.engines_serve) return;
  // Every second one waits for the copy of another one, but not for long.
  if (member.index % 2 == 1) {
    *member.refit_at += kBehindOthers;
    return;
  }
  for (Member* const other : Members(ChaosKind::kEngine)) {
    if (other->refit_at.has_value()) other->refit_at = Clock::now();
  }
}

void ChaosFleet::CheckMemory(Member& engine, bool fenced) {
  if (fenced) return;
  if (!engine.committed.has_value()) {
    return Torn(engine, "serves before it has committed anything");
  }
  const StepCounts counts =
      CountChaosSteps(engine.placement, engine.memory->memory());
  const auto step = static_cast<uint16_t>(engine.committed->second);
  if (counts.size() == 1 && counts.begin()->first == step) return;
  std::vector<std::string> parts;
  for (const auto& [found, count] : counts) {
    if (parts.size() < 8) {
      parts.push_back(absl::StrCat(count, " elements of step ", found));
    }
  }
  Torn(engine, absl::StrCat("says that it serves step ", step, " and holds ",
                            absl::StrJoin(parts, ", ")));
}

void ChaosFleet::Torn(Member& engine, const std::string& what) {
  ++faults_.torn;
  Log(absl::StrCat("TORN: ", engine.label, " ", what));
}

void ChaosFleet::Send(Member& member, const std::string& line, const char* call,
                      double seconds) {
  if (member.process == nullptr) return;
  member.call = call;
  member.call_seconds = seconds;
  member.call_since = Clock::now();
  // One that has ended says so by the end of its output.
  member.process->WriteLine(line).IgnoreError();
}

void ChaosFleet::Tick() {
  const Clock::time_point now = Clock::now();
  for (const auto& owned : members_) {
    Member& member = *owned;
    if (member.process == nullptr) {
      if (!member.keep_down && now >= member.start_at) Launch(member);
      continue;
    }
    if (member.throttled) {
      const bool run =
          (now.time_since_epoch() / kThrottleSlice) % 10 == member.index % 10;
      if (run == member.throttled_now) {
        member.throttled_now = !run;
        member.process->Kill(run ? SIGCONT : SIGSTOP);
      }
    }
    if (member.refit_at.has_value() && now >= *member.refit_at) {
      member.refit_at.reset();
      Send(member, "go", "refit", kRefitCallSeconds);
    }
    if (member.parked || member.stopped || member.throttled) {
      member.call_since = now;
      continue;
    }
    const double late = Seconds(now - member.call_since) - member.call_seconds;
    if (member.call == nullptr || late <= options_.margin_seconds) continue;
    ++faults_.hangs;
    Log(fmt::format("HANG: {} in {}: {:.1f} s past what it may take",
                    member.label, member.call, late));
    HandleEnd(member, absl::StrCat(member.label, " is killed"));
  }
  DriveTrainers(now);
}

void ChaosFleet::DriveTrainers(Clock::time_point now) {
  if (now < next_step_) return;
  const std::vector<Member*> trainers = Members(ChaosKind::kTrainer);
  const bool busy =
      std::any_of(trainers.begin(), trainers.end(),
                  [](const Member* each) { return each->call != nullptr; });
  if (busy) return;
  ++step_;
  for (Member* const trainer : trainers) {
    if (!trainer->up) continue;
    Send(*trainer, absl::StrCat("step ", step_), "step", kStepSeconds);
  }
  next_step_ =
      now + (options_.engines_serve ? kBetweenStepsOfCopies : kBetweenSteps);
}

void ChaosFleet::Park(Member& member, const std::string& phase, int skip) {
  Log(absl::StrCat(member.label, " shall stop at ", phase, " ", skip));
  member.parked = false;
  if (member.process != nullptr) {
    member.process->WriteLine(absl::StrCat("park ", phase, " ", skip))
        .IgnoreError();
  }
}

void ChaosFleet::Resume(Member& member) {
  member.parked = false;
  if (member.process == nullptr) return;
  Log(absl::StrCat(member.label, " goes on"));
  member.process->WriteLine("resume").IgnoreError();
}

void ChaosFleet::Kill(Member& member) {
  Log(absl::StrCat(member.label, " is killed"));
  member.keep_down = true;
  End(member);
}

void ChaosFleet::Leave(Member& engine) {
  Log(absl::StrCat(engine.label, " leaves"));
  engine.keep_down = true;
  if (engine.process != nullptr) {
    engine.process->WriteLine("quit").IgnoreError();
  }
}

void ChaosFleet::StartAgain(Member& member) {
  member.keep_down = false;
  member.start_at = Clock::now();
}

void ChaosFleet::Restart(Member& member, const std::string& phase) {
  Kill(member);
  member.park_next = phase;
  StartAgain(member);
}

void ChaosFleet::Stop(Member& member, bool stopped) {
  if (member.process == nullptr) return;
  Log(absl::StrCat(member.label, stopped ? " is stopped" : " continues"));
  member.stopped = stopped;
  member.process->Kill(stopped ? SIGSTOP : SIGCONT);
}

void ChaosFleet::Throttle(Member& member, bool on) {
  Log(absl::StrCat(member.label, on ? " is slow" : " is fast again"));
  member.throttled = on;
  if (on || member.process == nullptr) return;
  member.throttled_now = false;
  member.process->Kill(SIGCONT);
}

void ChaosFleet::SetLinks(Member& member, ChaosRelay::Mode mode) {
  for (const auto& link : member.links) link->SetMode(mode);
}

void ChaosFleet::SetLinksTo(Member& member, ChaosRelay::Mode mode) {
  for (const auto& other : members_) {
    const bool to_catalog = member.kind == ChaosKind::kCatalog &&
                            (other->kind == ChaosKind::kTrainer ||
                             other->kind == ChaosKind::kEngine);
    const bool to_redis =
        member.kind == ChaosKind::kRedis && other->kind == ChaosKind::kCatalog;
    if (!to_catalog && !to_redis) continue;
    other->links[static_cast<size_t>(member.index)]->SetMode(mode);
  }
}

void ChaosFleet::NextEpoch() {
  ++epoch_;
  Log(absl::StrCat("epoch ", epoch_, " begins"));
  for (Member* const trainer : Members(ChaosKind::kTrainer)) {
    Restart(*trainer, "");
  }
}

bool ChaosFleet::AllBeyond(uint64_t step) {
  for (Member* const engine : Members(ChaosKind::kEngine)) {
    if (!engine->committed.has_value() || engine->committed->second <= step) {
      return false;
    }
  }
  return true;
}

void ChaosFleet::Log(const std::string& line) {
  log_.push_back(
      fmt::format("{:9.3f} {}", Seconds(Clock::now() - born_), line));
}

std::string ChaosFleet::Describe() {
  std::string text;
  for (const auto& member : members_) {
    absl::StrAppend(
        &text, text.empty() ? "" : "\n", member->label, ": ",
        member->process == nullptr ? "down"
        : member->up               ? "up"
                                   : "starting",
        member->stopped ? ", stopped" : "",
        member->parked ? ", held at " + member->parked_at : "",
        member->call == nullptr
            ? ""
            : fmt::format(", in {} for {:.1f} s", member->call,
                          Seconds(Clock::now() - member->call_since)),
        member->committed.has_value()
            ? absl::StrCat(", serves step ", member->committed->second)
            : "");
  }
  return text;
}

}  // namespace weft::apps
