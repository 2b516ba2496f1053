#include "demo_scene.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "rank_store.h"
#include "weft/base/status.h"
#include "weft/recipe/layout_spec.h"

namespace weft::apps {
namespace {

// Generous: a cold start on a busy two-core machine reads 270 MB.
base::Deadline Patience() {
  return base::Deadline::After(std::chrono::seconds(120));
}

absl::StatusOr<nlohmann::json> ReadEvent(ChildProcess& child) {
  WEFT_ASSIGN_OR_RETURN(const std::string line, child.ReadLine(Patience()));
  nlohmann::json event = nlohmann::json::parse(line, nullptr, false);
  if (event.is_discarded()) {
    return absl::InternalError(
        absl::StrCat(child.label(), " printed \"", line, "\", no JSON"));
  }
  return event;
}

absl::Status ExpectEvent(const nlohmann::json& event, const std::string& name,
                         const std::string& who) {
  if (event.value("event", "") == name) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat(who, ": ",
                   event.contains("error") ? event["error"].get<std::string>()
                                           : event.dump()));
}

absl::StatusOr<int64_t> CountRanks(const std::string& checkpoint,
                                   const std::string& layout) {
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec spec,
                        recipe::ParseLayoutSpec(layout));
  WEFT_ASSIGN_OR_RETURN(const recipe::ModelConfig config,
                        recipe::LoadModelConfig(checkpoint));
  WEFT_ASSIGN_OR_RETURN(const recipe::RecipeBook book,
                        recipe::RecipeBook::Load(""));
  WEFT_ASSIGN_OR_RETURN(const recipe::Recipe* recipe,
                        book.Find(config.architecture));
  return recipe->NumRanks(config, spec);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DemoScene>> DemoScene::Start(
    SceneOptions options) {
  std::unique_ptr<DemoScene> scene(new DemoScene(std::move(options)));
  WEFT_ASSIGN_OR_RETURN(const DeviceChoice device,
                        ChooseDevice(scene->options_.device));
  if (device.driver != nullptr) {
    scene->num_gpus_ = device.driver->num_devices();
  }
  WEFT_RETURN_IF_ERROR(scene->StartCatalog());
  WEFT_RETURN_IF_ERROR(scene->StartTrainers());
  WEFT_RETURN_IF_ERROR(scene->StartEngines());
  return scene;
}

std::string DemoScene::DeviceFor(bool engine) {
  if (options_.device == "cpu") return "cpu";
  const int trainers = std::max(1, num_gpus_ / 2);
  const int engines = std::max(1, num_gpus_ - trainers);
  const int index = placed_[engine ? 1 : 0]++;
  const int gpu =
      engine && num_gpus_ > 1 ? trainers + index % engines : index % trainers;
  return absl::StrCat("cuda:", gpu);
}

absl::Status DemoScene::StartCatalog() {
  WEFT_ASSIGN_OR_RETURN(
      catalog_,
      ChildProcess::Start("catalog", {SelfPath(), "catalog", "--listen",
                                      "127.0.0.1:0", "--json"}));
  WEFT_ASSIGN_OR_RETURN(const nlohmann::json event, ReadEvent(*catalog_));
  WEFT_RETURN_IF_ERROR(ExpectEvent(event, "listening", "catalog"));
  address_ = event["address"].get<std::string>();
  return absl::OkStatus();
}

absl::Status DemoScene::StartTrainers() {
  WEFT_ASSIGN_OR_RETURN(const int64_t ranks,
                        CountRanks(options_.checkpoint, options_.from));
  for (int64_t rank = 0; rank < ranks; ++rank) {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<ChildProcess> trainer,
        ChildProcess::Start(
            absl::StrCat("trainer rank ", rank),
            {SelfPath(), "publish", "--catalog", address_, "--model",
             options_.model, "--checkpoint", options_.checkpoint, "--layout",
             options_.from, "--rank", absl::StrCat(rank), "--transport",
             options_.transport, "--device", DeviceFor(/*engine=*/false),
             "--control", "stdin", "--json"}));
    trainers_.push_back(std::move(trainer));
  }
  for (const auto& trainer : trainers_) {
    WEFT_ASSIGN_OR_RETURN(const nlohmann::json event, ReadEvent(*trainer));
    WEFT_RETURN_IF_ERROR(ExpectEvent(event, "published", trainer->label()));
  }
  return absl::OkStatus();
}

absl::StatusOr<DemoScene::Engine> DemoScene::StartEngine(
    const std::string& layout, int64_t rank, bool faulty) {
  std::vector<std::string> argv = {
      SelfPath(),    "pull",
      "--catalog",   address_,
      "--model",     options_.model,
      "--layout",    layout,
      "--rank",      absl::StrCat(rank),
      "--transport", options_.transport,
      "--threads",   absl::StrCat(options_.threads),
      "--device",    DeviceFor(/*engine=*/true),
      "--control",   "stdin",
      "--json"};
  if (faulty) {
    argv.push_back("--inject");
    argv.push_back("faults");
  }
  Engine engine;
  engine.layout = layout;
  engine.rank = rank;
  WEFT_ASSIGN_OR_RETURN(
      engine.process,
      ChildProcess::Start(absl::StrCat("engine ", layout, " rank ", rank),
                          argv));
  return engine;
}

absl::Status DemoScene::StartEngines() {
  for (const std::string& layout : options_.to) {
    WEFT_ASSIGN_OR_RETURN(const int64_t ranks,
                          CountRanks(options_.checkpoint, layout));
    for (int64_t rank = 0; rank < ranks; ++rank) {
      WEFT_ASSIGN_OR_RETURN(Engine engine,
                            StartEngine(layout, rank, /*faulty=*/false));
      engines_.push_back(std::move(engine));
    }
  }
  return absl::OkStatus();
}

absl::Status DemoScene::Step() {
  for (const auto& trainer : trainers_) {
    WEFT_RETURN_IF_ERROR(trainer->WriteLine("step"));
  }
  for (const auto& trainer : trainers_) {
    WEFT_ASSIGN_OR_RETURN(const nlohmann::json event, ReadEvent(*trainer));
    WEFT_RETURN_IF_ERROR(ExpectEvent(event, "published", trainer->label()));
  }
  ++step_;
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> DemoScene::Ask(Engine& engine,
                                              const std::string& line) {
  WEFT_RETURN_IF_ERROR(engine.process->WriteLine(line));
  return ReadEvent(*engine.process);
}

absl::Status DemoScene::SaveAndVerify(Engine& engine, EngineResult& result) {
  const std::string file =
      absl::StrCat(options_.work_dir, "/engine.safetensors");
  WEFT_ASSIGN_OR_RETURN(const nlohmann::json saved,
                        Ask(engine, absl::StrCat("save ", file)));
  WEFT_RETURN_IF_ERROR(ExpectEvent(saved, "saved", engine.process->label()));
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<ChildProcess> verifier,
      ChildProcess::Start(
          "verifier",
          {SelfPath(), "verify", file, "--checkpoint", options_.checkpoint,
           "--layout", engine.layout, "--rank", absl::StrCat(engine.rank),
           "--step", absl::StrCat(step_)}));
  const absl::StatusOr<std::string> sentence = verifier->ReadLine(Patience());
  WEFT_ASSIGN_OR_RETURN(const int exit_code, verifier->Wait(Patience()));
  std::error_code ignored;
  std::filesystem::remove(file, ignored);
  result.ok = exit_code == 0;
  result.verified =
      sentence.ok() ? *sentence : std::string(sentence.status().message());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<EngineResult>> DemoScene::RefitAll() {
  const std::string version = absl::StrCat("run:0:", step_);
  for (Engine& engine : engines_) {
    WEFT_RETURN_IF_ERROR(engine.process->WriteLine("poison"));
  }
  std::vector<EngineResult> results;
  for (Engine& engine : engines_) {
    EngineResult result;
    result.layout = engine.layout;
    result.rank = engine.rank;
    WEFT_ASSIGN_OR_RETURN(result.report,
                          Ask(engine, absl::StrCat("refit ", version)));
    WEFT_RETURN_IF_ERROR(
        ExpectEvent(result.report, "refitted", engine.process->label()));
    WEFT_RETURN_IF_ERROR(SaveAndVerify(engine, result));
    results.push_back(std::move(result));
  }
  return results;
}

absl::Status DemoScene::FlipAtTrainer() {
  WEFT_RETURN_IF_ERROR(trainers_[0]->WriteLine("flip"));
  WEFT_ASSIGN_OR_RETURN(const nlohmann::json event, ReadEvent(*trainers_[0]));
  return ExpectEvent(event, "flipped", trainers_[0]->label());
}

absl::StatusOr<DemoScene::FaultResult> DemoScene::FlipOneByte() {
  const bool at_wire = options_.device == "cpu";
  WEFT_ASSIGN_OR_RETURN(Engine engine,
                        StartEngine(options_.to[0], 0, /*faulty=*/at_wire));
  const std::string refit = absl::StrCat("refit run:0:", step_);
  FaultResult result;
  if (at_wire) {
    WEFT_RETURN_IF_ERROR(engine.process->WriteLine("flip"));
  } else {
    WEFT_RETURN_IF_ERROR(FlipAtTrainer());
  }
  WEFT_ASSIGN_OR_RETURN(const nlohmann::json failed, Ask(engine, refit));
  result.error = failed.value("error", "");
  result.refused = failed.value("event", "") == "failed" &&
                   failed.value("code", "") == "DATA_LOSS" &&
                   absl::StrContains(result.error, "digest mismatch") &&
                   absl::StrContains(result.error, "\"");
  result.fenced = failed.value("fenced", false);
  if (!at_wire) WEFT_RETURN_IF_ERROR(FlipAtTrainer());
  WEFT_ASSIGN_OR_RETURN(const nlohmann::json healed, Ask(engine, refit));
  WEFT_RETURN_IF_ERROR(
      ExpectEvent(healed, "refitted", engine.process->label()));
  EngineResult verified;
  WEFT_RETURN_IF_ERROR(SaveAndVerify(engine, verified));
  result.healed = verified.ok;
  return result;
}

absl::Status DemoScene::Stop() {
  for (Engine& engine : engines_) {
    WEFT_RETURN_IF_ERROR(engine.process->WriteLine("quit"));
  }
  for (const auto& trainer : trainers_) {
    WEFT_RETURN_IF_ERROR(trainer->WriteLine("quit"));
  }
  std::vector<ChildProcess*> all;
  for (Engine& engine : engines_) all.push_back(engine.process.get());
  for (const auto& trainer : trainers_) all.push_back(trainer.get());
  for (ChildProcess* child : all) {
    WEFT_ASSIGN_OR_RETURN(const int exit_code, child->Wait(Patience()));
    if (exit_code != 0) {
      return absl::InternalError(
          absl::StrCat(child->label(), " ended with exit code ", exit_code));
    }
  }
  return absl::OkStatus();
}

}  // namespace weft::apps
