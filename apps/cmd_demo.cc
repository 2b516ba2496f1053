// weft demo: the main job, with every rank a process of its own.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "child_process.h"
#include "commands.h"
#include "console.h"
#include "demo_scene.h"
#include "endpoints.h"
#include "weft/base/status.h"
#include "work_dir.h"

namespace weft::apps {
namespace {

struct DemoArgs {
  std::string checkpoint;
  std::string from;
  std::vector<std::string> to = {"vllm:tp=3", "vllm:tp=1"};
  std::string transport = "auto";
  std::string device = "cpu";
  int versions = 3;
  int threads = 2;
  bool json = false;
};

// The shape of SmolLM2-135M with Qwen3's norms, so that the same degrees fit.
constexpr char kSyntheticConfig[] = R"({
  "architectures": ["Qwen3ForCausalLM"],
  "model_type": "qwen3",
  "hidden_size": 576,
  "num_hidden_layers": 30,
  "num_attention_heads": 9,
  "num_key_value_heads": 3,
  "head_dim": 64,
  "intermediate_size": 1536,
  "vocab_size": 49152,
  "tie_word_embeddings": true,
  "rms_norm_eps": 1e-06,
  "torch_dtype": "bfloat16"
}
)";

// Prints for a person, or one JSON object a line.
class Teller {
 public:
  explicit Teller(bool json) : json_(json) {}
  void Text(const std::string& line) const {
    if (!json_) PrintLine(line);
  }
  void Event(const nlohmann::json& event) const {
    if (json_) PrintLine(event.dump());
  }

 private:
  bool json_;
};

absl::StatusOr<std::string> SynthesizeCheckpoint(const WorkDir& work) {
  const std::string config = work.path() + "/config.json";
  const std::string out = work.path() + "/checkpoint";
  std::ofstream(config) << kSyntheticConfig;
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<ChildProcess> synth,
      ChildProcess::Start("weft synth", {SelfPath(), "synth", "--config",
                                         config, "--out", out}));
  WEFT_ASSIGN_OR_RETURN(
      const int exit_code,
      synth->Wait(base::Deadline::After(std::chrono::minutes(5))));
  if (exit_code != 0) {
    return absl::InternalError("weft synth failed to write a checkpoint");
  }
  return out;
}

std::string PeerBytes(const nlohmann::json& report) {
  std::string text;
  for (const nlohmann::json& peer : report["peers"]) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", "rank ",
                    peer["rank"].get<int64_t>(), " ",
                    HumanBytes(peer["bytes"].get<int64_t>()));
  }
  return text;
}

std::vector<std::string> ResultRow(const EngineResult& result) {
  const nlohmann::json& report = result.report;
  return {result.layout,
          absl::StrCat(result.rank),
          absl::StrCat(report["moves"].get<int64_t>()),
          absl::StrCat(report["runs"].get<int64_t>()),
          HumanBytes(report["bytes"].get<int64_t>()),
          HumanBytes(report["zero_fill_bytes"].get<int64_t>()),
          HumanSeconds(report["transfer_seconds"].get<double>()),
          HumanRate(report["bytes_per_second"].get<double>()),
          HumanRate(report["bound_bytes_per_second"].get<double>()),
          fmt::format("{:.2f}", report["ratio"].get<double>()),
          absl::StrCat(report["tiles_checked"].get<int64_t>(), " tiles"),
          result.ok ? "every byte" : "DIFFERENT"};
}

const std::vector<std::string> kHeader = {
    "ENGINE", "RANK",  "MOVES", "RUNS",  "BYTES",   "ZEROS",
    "TIME",   "SPEED", "BOUND", "RATIO", "DIGESTS", "VERIFIED"};

// Adds rows to `all_rows`; false if any engine's bytes were wrong.
absl::StatusOr<bool> TellVersion(
    const Teller& teller, DemoScene& scene, const std::string& from,
    std::vector<std::vector<std::string>>& all_rows) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<EngineResult> results,
                        scene.RefitAll());
  bool ok = true;
  std::vector<std::vector<std::string>> rows;
  for (const EngineResult& result : results) {
    ok = ok && result.ok;
    rows.push_back(ResultRow(result));
    std::vector<std::string> row = rows.back();
    row.insert(row.begin(), {from, absl::StrCat(scene.step())});
    all_rows.push_back(std::move(row));
    nlohmann::json event = result.report;
    event["from"] = from;
    event["to"] = result.layout;
    event["verified"] = result.ok;
    event["verify_sentence"] = result.verified;
    teller.Event(event);
  }
  teller.Text(FormatTable(kHeader, rows));
  for (const EngineResult& result : results) {
    if (scene.step() == 0) {
      teller.Text(absl::StrCat("  ", result.layout, " rank ", result.rank,
                               " reads ", PeerBytes(result.report)));
    }
    if (!result.ok) teller.Text("  " + result.verified);
  }
  if (results[0].report["conversions"].empty()) {
    teller.Text(
        "  conversions: none; coverage: every element written exactly "
        "once (proven before the first byte moved)");
  }
  return ok;
}

absl::StatusOr<bool> TellFault(const Teller& teller, DemoScene& scene) {
  teller.Text("\nnow one byte is flipped:");
  WEFT_ASSIGN_OR_RETURN(const DemoScene::FaultResult fault,
                        scene.FlipOneByte());
  teller.Text(absl::StrCat(
      "  ", fault.refused ? "refused: " : "NOT REFUSED: ", fault.error));
  teller.Text(absl::StrCat(
      "  the receiver is ", fault.fenced ? "fenced" : "NOT FENCED",
      "; the next refit ", fault.healed ? "healed it" : "DID NOT HEAL IT",
      " (every byte verified)"));
  teller.Event({{"event", "fault"},
                {"refused", fault.refused},
                {"error", fault.error},
                {"fenced", fault.fenced},
                {"healed", fault.healed}});
  return fault.refused && fault.fenced && fault.healed;
}

absl::StatusOr<bool> RunScene(const Teller& teller, const DemoArgs& args,
                              const std::string& checkpoint,
                              const WorkDir& work, const std::string& from,
                              std::vector<std::vector<std::string>>& rows) {
  SceneOptions options;
  options.checkpoint = checkpoint;
  options.from = from;
  options.to = args.to;
  options.transport = args.transport;
  options.work_dir = work.path();
  options.threads = args.threads;
  options.device = args.device;
  teller.Text(absl::StrCat("\n=== trainer ", from, " ==="));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<DemoScene> scene,
                        DemoScene::Start(options));
  teller.Text(absl::StrCat("catalog, ", scene->num_trainers(),
                           " trainer processes and ", scene->num_engines(),
                           " engine processes are up"));
  bool ok = true;
  for (int version = 0; version < args.versions; ++version) {
    if (version > 0) WEFT_RETURN_IF_ERROR(scene->Step());
    teller.Text(absl::StrCat("\nversion run:0:", version,
                             version > 0 ? " (every weight changed)" : ""));
    WEFT_ASSIGN_OR_RETURN(const bool good,
                          TellVersion(teller, *scene, from, rows));
    ok = ok && good;
  }
  WEFT_ASSIGN_OR_RETURN(const bool good, TellFault(teller, *scene));
  WEFT_RETURN_IF_ERROR(scene->Stop());
  return ok && good;
}

absl::StatusOr<bool> Demo(const DemoArgs& args) {
  const Teller teller(args.json);
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<WorkDir> work,
                        WorkDir::Make("weft_demo", uint64_t{2} << 30));
  EndAtStopSignal([path = work->path()] { WorkDir::Remove(path); });
  std::string checkpoint = args.checkpoint;
  if (checkpoint.empty()) {
    teller.Text(
        "no --checkpoint given: making a synthetic Qwen3-shaped one "
        "(make demo prepares a real model)");
    WEFT_ASSIGN_OR_RETURN(checkpoint, SynthesizeCheckpoint(*work));
  }
  std::vector<std::string> scenes = {"megatron:tp=1,pp=4,first=7,last=7",
                                     "fsdp:shard=5"};
  if (!args.from.empty()) scenes = {args.from};
  std::vector<std::vector<std::string>> rows;
  bool ok = true;
  for (const std::string& from : scenes) {
    WEFT_ASSIGN_OR_RETURN(
        const bool good, RunScene(teller, args, checkpoint, *work, from, rows));
    ok = ok && good;
  }
  std::vector<std::string> header = kHeader;
  header.insert(header.begin(), {"TRAINER", "STEP"});
  teller.Text("\n=== all refits ===\n" + FormatTable(header, rows));
  teller.Text(ok ? "all of it held: every byte of every engine rank is right"
                 : "NOT all of it held: see above");
  teller.Event({{"event", "demo"}, {"ok", ok}, {"refits", rows.size()}});
  return ok;
}

}  // namespace

void AddDemo(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<DemoArgs>();
  CLI::App* command = app.add_subcommand(
      "demo", "Watch real processes refit, verify, and survive a flipped byte");
  command->footer("example: weft demo --checkpoint build/smollm2 --versions 3");
  command->add_option("--checkpoint", args->checkpoint,
                      "Hugging Face directory; synthetic if absent");
  command->add_option("--from", args->from,
                      "trainer layout; two standard ones if absent");
  command->add_option("--to", args->to, "engine layout, repeatable")
      ->capture_default_str();
  command->add_option("--versions", args->versions, "versions to carry")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command
      ->add_option("--transport", args->transport,
                   "auto, shm, ucx, nixl or cuda")
      ->capture_default_str();
  command
      ->add_option("--device", args->device,
                   "cuda: trainers' and engines' weights on GPUs")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command->add_option("--threads", args->threads, "threads of an engine rank")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_flag("--json", args->json, "one JSON object a line");
  command->callback([args, exit_code] {
    BlockStopSignals();
    const absl::StatusOr<bool> ok = Demo(*args);
    *exit_code = !ok.ok() ? Fail("demo", ok.status(), args->json) : *ok ? 0 : 1;
  });
}

}  // namespace weft::apps
