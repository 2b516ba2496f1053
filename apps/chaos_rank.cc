#include "chaos_rank.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "chaos_phases.h"
#include "chaos_weights.h"
#include "console.h"
#include "endpoints.h"
#include "weft/base/status.h"
#include "weft/session/publisher.h"
#include "weft/session/receiver.h"

namespace weft::apps {
namespace {

using nlohmann::json;

struct RankArgs {
  std::string kind;
  std::string catalog;
  std::string layout;
  std::string transport = "shm";
  std::string memory_file;
  std::string park;
  std::string broken;
  bool serve = false;
  int64_t rank = 0;
  uint64_t epoch = 0;
  uint64_t step = 0;
};

// An engine whose refits fail so often in a row, and not for want of time, ends
// and is started again, as by any supervisor.
constexpr int kMostFailures = 5;

// The last step that was said to be committed. Digests for others are taken
// after the commit and before it is said: whoever reads the memory does not
// know yet what it shall hold.
std::atomic<uint64_t> said_step{0};

std::string CodeOf(const absl::Status& status) {
  return std::string(absl::StatusCodeToString(status.code()));
}

void SayFailed(const char* call, const absl::Status& status, bool fenced) {
  PrintLine(json({{"event", "failed"},
                  {"call", call},
                  {"code", CodeOf(status)},
                  {"error", std::string(status.message())},
                  {"fenced", fenced}})
                .dump());
}

// Every weight, in two halves with a place to stop between them.
void ChangeWeights(const manifest::Placement& placement,
                   const session::RankMemory& memory, uint64_t step,
                   PhaseGate& gate) {
  const size_t count = placement.stored.size();
  WriteChaosWeights(placement, memory, step, 0, count / 2);
  gate.Pass("mutate");
  WriteChaosWeights(placement, memory, step, count / 2, count);
}

absl::Status TakeStep(const RankArgs& args,
                      const manifest::Placement& placement,
                      const session::RankMemory& memory, uint64_t step,
                      PhaseGate& gate, session::Publisher& publisher) {
  // A trainer that is broken on purpose changes what may be read.
  if (args.broken != "blind") {
    WEFT_RETURN_IF_ERROR(
        publisher.BeginUpdate(AfterSeconds(kRevokeSeconds)).status());
  }
  ChangeWeights(placement, memory, step, gate);
  return publisher.Publish(step, AfterSeconds(kPublishSeconds)).status();
}

absl::Status RunTrainer(const RankArgs& args) {
  PhaseGate& gate = PhaseGate::Open(args.park, [] { return false; });
  PhaseKernels kernels(gate);
  session::PublisherOptions options;
  WEFT_ASSIGN_OR_RETURN(options.placement,
                        ChaosPlacement(args.layout, args.rank));
  const manifest::Placement placement = options.placement;
  WEFT_ASSIGN_OR_RETURN(
      const session::OwnedRankMemory owned,
      session::AllocateFor(placement, memory::MemoryKind::kShared));
  WriteChaosWeights(placement, owned.memory, args.step, 0,
                    placement.stored.size());
  WEFT_ASSIGN_OR_RETURN(auto catalog, ConnectCatalog(args.catalog));
  options.model = kChaosModel;
  options.epoch = args.epoch;
  options.memory = owned.memory;
  options.catalog = WithPhases(std::move(catalog), gate);
  WEFT_ASSIGN_OR_RETURN(options.transports, MakeTransports(args.transport));
  options.kernels = &kernels;
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<session::Publisher> publisher,
                        session::Publisher::Create(
                            std::move(options), AfterSeconds(kCreateSeconds)));
  WEFT_RETURN_IF_ERROR(
      publisher->Publish(args.step, AfterSeconds(kPublishSeconds)).status());
  PrintLine(json({{"event", "up"}, {"step", args.step}}).dump());
  while (const auto command = gate.NextCommand()) {
    if (command->rfind("step ", 0) != 0) break;
    const uint64_t step = std::stoull(command->substr(5));
    const absl::Status status =
        TakeStep(args, placement, owned.memory, step, gate, *publisher);
    if (status.ok()) {
      PrintLine(json({{"event", "published"}, {"step", step}}).dump());
      continue;
    }
    SayFailed("step", status, false);
    // Told that it is dead or fenced: whoever started it starts it again.
    WEFT_RETURN_IF_ERROR(publisher->Health());
  }
  return absl::OkStatus();
}

// One refit and what there is to say of it. `failures` in a row.
void RefitOnce(const RankArgs& args, session::Receiver& receiver,
               int& failures) {
  const absl::StatusOr<session::RefitReport> report =
      receiver.Refit(nullptr, /*newer=*/true, AfterSeconds(kRefitSeconds));
  if (report.ok()) {
    failures = 0;
    const bool from_copy = std::any_of(
        report->peers.begin(), report->peers.end(),
        [](const auto& peer) { return peer.name.starts_with("copy"); });
    PrintLine(json({{"event", "committed"},
                    {"from_copy", from_copy},
                    {"epoch", report->version.epoch},
                    {"step", report->version.step},
                    {"fenced", receiver.fenced()}})
                  .dump());
    said_step = report->version.step;
    return;
  }
  if (!absl::IsDeadlineExceeded(report.status())) ++failures;
  // An engine that is broken on purpose serves after a failed refit.
  SayFailed("refit", report.status(),
            args.broken != "unfenced" && receiver.fenced());
}

absl::Status RunEngine(const RankArgs& args) {
  static std::atomic<const session::Receiver*> known{nullptr};
  PhaseGate& gate = PhaseGate::Open(args.park, [] {
    const session::Receiver* const receiver = known;
    return receiver == nullptr || receiver->fenced() ||
           receiver->committed()->step != said_step;
  });
  PhaseKernels kernels(gate);
  session::ReceiverOptions options;
  WEFT_ASSIGN_OR_RETURN(options.placement,
                        ChaosPlacement(args.layout, args.rank));
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<SharedRankFile> file,
      SharedRankFile::Open(args.memory_file, options.placement,
                           /*create=*/true));
  WEFT_ASSIGN_OR_RETURN(auto catalog, ConnectCatalog(args.catalog));
  options.model = kChaosModel;
  options.memory = file->memory();
  options.catalog = WithPhases(std::move(catalog), gate);
  WEFT_ASSIGN_OR_RETURN(options.transports, MakeTransports(args.transport));
  options.kernels = &kernels;
  options.measure_bound = false;
  options.verify = args.broken != "blind";
  options.serve = args.serve && options.verify;
  // Bytes that are posted pass no kernel on their way.
  options.execute.progress = [&gate](int64_t, int64_t) {
    gate.Pass("transfer");
  };
  options.derive_hook = [&gate](const catalog::VersionId&) {
    gate.Pass("verified");
    return absl::OkStatus();
  };
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<session::Receiver> receiver,
                        session::Receiver::Create(
                            std::move(options), AfterSeconds(kCreateSeconds)));
  known = receiver.get();
  PrintLine(json({{"event", "up"}}).dump());
  int failures = 0;
  absl::Status status;
  // Whoever reads the memory says "go" when it has been read.
  while (const auto command = gate.NextCommand()) {
    if (*command != "go") break;
    RefitOnce(args, *receiver, failures);
    if (failures < kMostFailures) continue;
    status = absl::UnavailableError(
        absl::StrCat(failures, " refits in a row failed"));
    break;
  }
  known = nullptr;
  return status;
}

}  // namespace

void AddChaosRank(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<RankArgs>();
  CLI::App* command =
      app.add_subcommand("chaos-rank", "One rank of weft chaos")->group("");
  command->add_option("--kind", args->kind)
      ->required()
      ->check(CLI::IsMember({"trainer", "engine"}));
  command->add_option("--catalog", args->catalog)->required();
  command->add_option("--layout", args->layout)->required();
  command->add_option("--rank", args->rank)->required();
  command->add_option("--transport", args->transport);
  command->add_option("--memory-file", args->memory_file);
  command->add_flag("--serve", args->serve);
  command->add_option("--park", args->park);
  command->add_option("--broken", args->broken);
  command->add_option("--epoch", args->epoch);
  command->add_option("--step", args->step);
  command->callback([args, exit_code] {
    const absl::Status status =
        args->kind == "trainer" ? RunTrainer(*args) : RunEngine(*args);
    *exit_code = status.ok() ? 0 : Fail("chaos-rank", status);
    // The thread that waits for input holds its lock: nothing that flushes all
    // streams may run. Standard output is flushed line by line.
    _exit(*exit_code);
  });
}

}  // namespace weft::apps
