// weft pull: stands in for one engine rank. Exports a running job's weights in
// an engine's layout, or receives version after version in tests and the demo.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "model_card.h"
#include "option_checks.h"
#include "refit_trace.h"
#include "report_json.h"
#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/manifest/packed_bytes.h"
#include "weft/session/rank_placement.h"
#include "weft/session/receiver.h"
#include "weft/transport/testing/fault_transport.h"

namespace weft::apps {
namespace {

struct PullArgs {
  std::string catalog = kDefaultCatalog;
  catalog::ClientAccess access;
  std::vector<std::string> required;
  std::string model;
  std::string layout;
  std::string recipes;
  std::string out;
  std::string version;
  std::string transport = "auto";
  std::string control = "none";
  std::string inject;
  std::string trace;
  std::string device = "cpu";
  std::string mode = "in-place";
  std::string state;
  std::optional<int64_t> shadow_bytes;
  int num_sms = 0;
  int64_t rank = 0;
  int threads = 1;
  int64_t staging_bytes = int64_t{64} << 20;
  int window = 32;
  double timeout_seconds = 60;
  bool serve = false;
  bool overwrite = false;
  bool explain = false;
  bool resume = false;
  bool refuse_lower_step = false;
  bool json = false;

  base::Deadline deadline() const { return AfterSeconds(timeout_seconds); }
};

// A receiver with its memory, and the fault switch of a test or demo.
struct Engine {
  std::shared_ptr<catalog::CatalogStore> catalog;
  std::unique_ptr<RankStore> store;
  manifest::Placement placement;
  std::vector<std::shared_ptr<transport::Transport>> transports;
  std::shared_ptr<memory::OpenedHandles> handles;  // null: not on a GPU
  std::shared_ptr<transport::FaultScript> faults;
  std::unique_ptr<ProgressLine> progress;  // while a refit runs
  RefitTrace trace;
  std::unique_ptr<session::Receiver> receiver;
};

// Between looks for a version; a command that serves has these signals blocked.
absl::Status CheckStop() {
  return StopSignalCame()
             ? absl::CancelledError("stopped while it waited for a version")
             : absl::OkStatus();
}

absl::StatusOr<manifest::Placement> TargetPlacement(
    const PullArgs& args, catalog::CatalogStore& store) {
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec spec,
                        recipe::ParseLayoutSpec(args.layout));
  // The model's shape comes from its publishers: wait until they are there.
  WEFT_ASSIGN_OR_RETURN(const catalog::Labels required,
                        ParseLabels(args.required));
  WEFT_RETURN_IF_ERROR(catalog::WaitForReady(store, args.model, nullptr,
                                             nullptr, args.deadline(),
                                             &CheckStop, required)
                           .status());
  WEFT_ASSIGN_OR_RETURN(const catalog::SourceSet sources,
                        store.GetSources(args.model, args.deadline()));
  if (sources.model_card_digest_hex.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the publishers of \"", args.model,
        "\" gave no model card; publish with weft publish, or build the "
        "receiver in a program"));
  }
  WEFT_ASSIGN_OR_RETURN(
      const std::string packed,
      store.GetPlacement(sources.model_card_digest_hex, args.deadline()));
  WEFT_ASSIGN_OR_RETURN(const std::string bytes, manifest::UnpackBytes(packed));
  WEFT_ASSIGN_OR_RETURN(const ModelCard card, DecodeModelCard(bytes));
  WEFT_ASSIGN_OR_RETURN(const recipe::ModelConfig config,
                        recipe::ParseModelConfig(card.config_json));
  WEFT_ASSIGN_OR_RETURN(const recipe::RecipeBook book,
                        recipe::RecipeBook::Load(args.recipes));
  WEFT_ASSIGN_OR_RETURN(const recipe::Recipe* recipe,
                        book.Find(config.architecture));
  WEFT_ASSIGN_OR_RETURN(recipe::RankLayout layout,
                        recipe->Layout(config, spec, args.rank, card.tensors));
  return session::ToPlacement(std::move(layout));
}

constexpr uint8_t kPoison = 0xA5;

absl::Status Build(const PullArgs& args, Engine& engine) {
  if (!args.inject.empty()) {
    engine.faults = std::make_shared<transport::FaultScript>();
  }
  WEFT_ASSIGN_OR_RETURN(const DeviceChoice device, ChooseDevice(args.device));
  engine.handles = device.handles;
  WEFT_ASSIGN_OR_RETURN(engine.transports,
                        MakeTransports(args.transport, device, engine.faults));
  WEFT_ASSIGN_OR_RETURN(const auto store,
                        ConnectCatalog(args.catalog, args.access));
  // Waits for publishers: what is wrong here is said before.
  WEFT_ASSIGN_OR_RETURN(engine.placement, TargetPlacement(args, *store));
  WEFT_ASSIGN_OR_RETURN(engine.store,
                        RankStore::Allocate(engine.placement, device));
  // Whatever a refit leaves unwritten is then seen.
  WEFT_RETURN_IF_ERROR(engine.store->Fill(kPoison));
  session::ReceiverOptions options;
  options.model = args.model;
  options.placement = engine.placement;
  options.memory = engine.store->memory();
  options.execute.device = device.Options(args.num_sms);
  engine.catalog = store;
  options.catalog = store;
  options.transports = engine.transports;
  options.limits.staging_bytes = args.staging_bytes;
  options.execute.num_threads = args.threads;
  options.execute.window = args.window;
  options.serve = args.serve;
  options.while_waiting = &CheckStop;
  if (args.mode == "shadow") options.mode = session::ReceiveMode::kShadow;
  if (args.shadow_bytes) options.shadow.budget_bytes = *args.shadow_bytes;
  options.state_file = args.state;
  options.resume = args.resume;
  options.refuse_lower_step = args.refuse_lower_step;
  options.execute.progress = [&engine](int64_t done, int64_t total) {
    if (engine.progress != nullptr) engine.progress->Show(done, total);
  };
  if (!args.trace.empty()) {
    options.on_phase = [&engine](const session::RefitPhase& phase) {
      engine.trace.Add(phase);
    };
  }
  WEFT_ASSIGN_OR_RETURN(
      engine.receiver,
      session::Receiver::Create(std::move(options), args.deadline()));
  return absl::OkStatus();
}

// nullopt: the newest.
absl::StatusOr<std::optional<catalog::VersionId>> NamedVersion(
    const std::string& text) {
  if (text.empty() || text == "latest") return std::nullopt;
  WEFT_ASSIGN_OR_RETURN(catalog::VersionId version,
                        catalog::ParseVersionId(text));
  return version;
}

// The version that --require chooses; of `exact`, whether it does.
absl::StatusOr<catalog::VersionId> FindLabelled(const PullArgs& args,
                                                const catalog::VersionId* exact,
                                                const Engine& engine) {
  WEFT_ASSIGN_OR_RETURN(const catalog::Labels required,
                        ParseLabels(args.required));
  WEFT_ASSIGN_OR_RETURN(
      const catalog::VersionRecord found,
      catalog::WaitForReady(*engine.catalog, args.model, exact, nullptr,
                            args.deadline(), &CheckStop, required));
  if (!catalog::HasLabels(found.labels, required)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "version ", catalog::ToString(found.version), " has the labels \"",
        catalog::ToString(found.labels), "\", --require wants \"",
        catalog::ToString(required), "\""));
  }
  return found.version;
}

// What this process has open of others' GPUs; null for a rank on the host.
nlohmann::json HandlesJson(const Engine& engine) {
  if (engine.handles == nullptr) return nullptr;
  const memory::OpenedHandles::Counts counts = engine.handles->counts();
  return {{"open", counts.open},
          {"bytes", counts.bytes},
          {"opened", counts.opened}};
}

void Say(const PullArgs& args, const session::RefitReport& report,
         const Engine& engine) {
  const plan::Plan& plan = *engine.receiver->plan();
  if (args.json) {
    nlohmann::json line = ToJson(report, plan, args.rank);
    line["open_handles"] = HandlesJson(engine);
    PrintLine(line.dump());
    return;
  }
  std::string text = FormatReport(report, plan);
  if (engine.handles != nullptr) {
    const memory::OpenedHandles::Counts counts = engine.handles->counts();
    absl::StrAppend(
        &text, "  open      ", counts.open, " allocations of other processes, ",
        HumanBytes(counts.bytes), " (", counts.opened, " opened so far)\n");
  }
  PrintLine(text);
  if (args.explain) PrintLine(engine.receiver->Explain({}, false));
}

absl::StatusOr<session::RefitReport> RefitAndSay(
    const PullArgs& args, const std::string& version_text, Engine& engine) {
  WEFT_ASSIGN_OR_RETURN(const std::optional<catalog::VersionId> named,
                        NamedVersion(version_text));
  bool exact = named.has_value();
  catalog::VersionId version = named.value_or(catalog::VersionId());
  if (!args.required.empty()) {
    WEFT_ASSIGN_OR_RETURN(
        version, FindLabelled(args, exact ? &version : nullptr, engine));
    exact = true;
  }
  engine.progress =
      std::make_unique<ProgressLine>(absl::StrCat("rank ", args.rank));
  absl::StatusOr<session::RefitReport> refitted = engine.receiver->Refit(
      exact ? &version : nullptr, /*newer=*/false, args.deadline());
  engine.progress.reset();
  if (refitted.ok()) Say(args, *refitted, engine);
  return refitted;
}

absl::Status RollBackAndSay(const PullArgs& args, Engine& engine) {
  WEFT_ASSIGN_OR_RETURN(const session::RollbackReport report,
                        engine.receiver->Rollback(args.deadline()));
  if (args.json) {
    PrintLine(ToJson(report, args.rank).dump());
  } else {
    PrintLine(absl::StrCat("back at ", catalog::ToString(report.version)));
  }
  return absl::OkStatus();
}

absl::Status Save(const PullArgs& args, const std::string& path, bool overwrite,
                  Engine& engine) {
  if (engine.receiver->fenced()) {
    return absl::FailedPreconditionError(
        absl::StrCat("nothing is written: this receiver is fenced, ",
                     engine.receiver->fenced_reason()));
  }
  WEFT_RETURN_IF_ERROR(engine.store->Download());
  std::vector<checkpoint::TensorToWrite> tensors;
  for (size_t i = 0; i < engine.placement.stored.size(); ++i) {
    const layout::StoredTensor& stored = engine.placement.stored[i];
    WEFT_ASSIGN_OR_RETURN(const int64_t bytes, session::StoredBytes(stored));
    tensors.push_back(
        {{stored.name, stored.dtype, stored.shape},
         absl::MakeConstSpan(session::StoredBase(engine.store->host(), i),
                             static_cast<size_t>(bytes))});
  }
  WEFT_RETURN_IF_ERROR(checkpoint::WriteSafetensors(
      path, tensors,
      {{"format", "pt"},
       {"weft_layout", engine.placement.layout_spec},
       {"weft_version", catalog::ToString(*engine.receiver->committed())}},
      overwrite));
  if (args.json) {
    PrintLine(nlohmann::json({{"event", "saved"}, {"file", path}}).dump());
  } else {
    PrintLine(absl::StrCat("wrote ", path));
  }
  return absl::OkStatus();
}

// The fault strikes the first operation of the next refit that moves weights:
// the ones before it read the epoch word of each peer. With a `source`, such as
// "publisher rank 2", of those that read from it.
absl::Status ArmFault(const PullArgs& args, transport::Fault::Kind kind,
                      const std::string& source, Engine& engine) {
  WEFT_RETURN_IF_ERROR(engine.receiver->Prepare(args.deadline()));
  transport::Fault fault;
  fault.kind = kind;
  fault.peer_label = source;
  fault.nth = source.empty()
                  ? static_cast<int64_t>(engine.receiver->plan()->peers.size())
                  : 1;
  fault.byte_index = 0;  // later ones may lie in the gaps of an over-read
  engine.faults->Add(fault);
  return absl::OkStatus();
}

// Lines on standard input: "refit [VERSION]", "rollback", "poison",
// "save FILE", "quit"; with --inject also "flip [SOURCE]" (one byte of the next
// transfer) and "drop [SOURCE]" (the next transfer never completes). A failed
// line is reported and the loop goes on: the receiver is then fenced.
absl::Status FollowControl(const PullArgs& args, Engine& engine) {
  std::string line;
  while (std::getline(std::cin, line) && line != "quit") {
    const size_t space = line.find(' ');
    const std::string word = line.substr(0, space);
    const std::string rest =
        space == std::string::npos ? "" : line.substr(space + 1);
    absl::Status status;
    if (word == "refit") {
      status = RefitAndSay(args, rest, engine).status();
    } else if (word == "rollback") {
      status = RollBackAndSay(args, engine);
    } else if (word == "poison") {
      status = engine.store->Fill(kPoison);
    } else if (word == "save") {
      status = Save(args, rest, /*overwrite=*/true, engine);
    } else if (word == "flip" && engine.faults != nullptr) {
      status = ArmFault(args, transport::Fault::Kind::kFlipByte, rest, engine);
    } else if (word == "drop" && engine.faults != nullptr) {
      status = ArmFault(args, transport::Fault::Kind::kDrop, rest, engine);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown control line \"", line,
                       "\"; known are refit, rollback, poison, save, quit"));
    }
    if (!status.ok()) {
      PrintLine(
          nlohmann::json(
              {{"event", "failed"},
               {"rank", args.rank},
               {"code", std::string(absl::StatusCodeToString(status.code()))},
               {"error", std::string(status.message())},
               {"fenced", engine.receiver->fenced()},
               {"fenced_reason", engine.receiver->fenced_reason()}})
              .dump());
    }
  }
  return absl::OkStatus();
}

absl::Status PullInto(const PullArgs& args, Engine& engine) {
  WEFT_RETURN_IF_ERROR(Build(args, engine));
  if (args.control == "stdin") return FollowControl(args, engine);
  WEFT_ASSIGN_OR_RETURN(const session::RefitReport report,
                        RefitAndSay(args, args.version, engine));
  if (args.serve) {
    if (!args.out.empty()) {
      WEFT_RETURN_IF_ERROR(Save(args, args.out, args.overwrite, engine));
    }
    if (!report.serving) {
      return absl::FailedPreconditionError(
          absl::StrCat("it would serve nobody: ", report.not_served));
    }
    if (!args.json) PrintLine("serving what it holds; stop with ctrl-c");
    WaitForStopSignal();
    return absl::OkStatus();
  }
  return Save(args, args.out, args.overwrite, engine);
}

absl::Status Pull(const PullArgs& args) {
  if (args.out.empty() && args.control == "none" && !args.serve) {
    return absl::InvalidArgumentError(
        "name the file to write with --out FILE.safetensors");
  }
  // Refuse now and not after a wait, or after the transfer.
  WEFT_RETURN_IF_ERROR(NamedVersion(args.version).status());
  if (!args.out.empty() && !args.overwrite) {
    WEFT_RETURN_IF_ERROR(checkpoint::CheckMayCreate(args.out));
  }
  Engine engine;
  const absl::Status status = PullInto(args, engine);
  if (args.trace.empty()) return status;
  const absl::Status written = engine.trace.Write(
      args.trace, absl::StrCat(args.layout, " rank ", args.rank));
  return status.ok() ? written : status;
}

}  // namespace

void AddPull(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<PullArgs>();
  CLI::App* command = app.add_subcommand(
      "pull", "Receive one engine rank's weights and write them to a file");
  command->footer(
      "example: weft pull --catalog 127.0.0.1:6470 --model smollm2 "
      "--layout vllm:tp=3 --rank 0 --out rank0.safetensors");
  command->add_option("--catalog", args->catalog, "HOST:PORT of the catalog")
      ->capture_default_str();
  command->add_option("--model", args->model, "name that it is published under")
      ->required();
  command
      ->add_option("--layout", args->layout,
                   "what this rank holds: vllm:tp=..,pp=.., hf, ...")
      ->required();
  command->add_option("--rank", args->rank, "rank within the layout")
      ->required()
      ->check(NotBelowZero());
  command->add_option("--out", args->out, "safetensors file to write");
  command->add_option("--version", args->version,
                      "RUN:EPOCH:STEP; the newest if not given");
  command->add_option("--require", args->required,
                      "NAME=VALUE that a version's labels must have; may be "
                      "given again");
  command
      ->add_option("--transport", args->transport,
                   "auto, shm, ucx, nixl or cuda")
      ->capture_default_str();
  AddDeviceOption(*command, args->device);
  command
      ->add_option("--sms", args->num_sms,
                   "multiprocessors of the GPU that kernels may take; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  command->add_option("--recipes", args->recipes,
                      "file or folder of further recipes");
  command->add_option("--threads", args->threads, "threads that move and check")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command
      ->add_option("--staging-bytes", args->staging_bytes,
                   "memory that posted access may use for staging")
      ->capture_default_str()
      ->check(NotBelowZero());
  command
      ->add_option("--window", args->window,
                   "posted operations in flight per peer")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  command
      ->add_option("--timeout", args->timeout_seconds,
                   "seconds that any wait may take")
      ->capture_default_str();
  command
      ->add_option("--mode", args->mode,
                   "shadow: receive beside what is served, then switch; with "
                   "the control line rollback")
      ->capture_default_str()
      ->check(CLI::IsMember({"in-place", "shadow"}));
  command
      ->add_option("--shadow-bytes", args->shadow_bytes,
                   "memory that the second set may take; no limit if not given")
      ->check(NotBelowZero());
  command->add_option("--state", args->state,
                      "file that keeps, beyond this process, whether the "
                      "weights may be torn (docs/receiver.md)");
  command->add_flag("--resume", args->resume,
                    "move only what an interrupted refit left to move");
  command->add_flag("--refuse-lower-step", args->refuse_lower_step,
                    "refuse a version whose step is lower than that of the one "
                    "committed before, within a run (with --control stdin)");
  command->add_flag("--overwrite", args->overwrite,
                    "replace --out if it exists");
  command->add_option("--trace", args->trace,
                      "file for the phases of its refits, for "
                      "https://ui.perfetto.dev");
  command->add_flag("--serve", args->serve,
                    "then serve what was received to others that pull");
  command->add_flag("--explain", args->explain, "print the whole plan");
  command
      ->add_option("--control", args->control,
                   "stdin: read the lines refit, rollback, poison, save, quit")
      ->check(CLI::IsMember({"none", "stdin"}));
  command
      ->add_option("--inject", args->inject,
                   "faults: wrap the transport for tests (line flip)")
      ->check(CLI::IsMember({"", "faults"}))
      ->group("Testing");
  AddAccessOptions(*command, args->access);
  command->add_flag("--json", args->json, "print JSON lines");
  command->callback([args, exit_code] {
    if (args->serve && args->control == "none") BlockStopSignals();
    const absl::Status status = Pull(*args);
    *exit_code = status.ok() ? 0 : Fail("pull", status, args->json);
  });
}

}  // namespace weft::apps
