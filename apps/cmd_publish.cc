// weft publish: stands in for one trainer rank. Seeds engines from a
// checkpoint, or serves a running job's rank in tests and the demo.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "load_model.h"
#include "model_card.h"
#include "option_checks.h"
#include "plain_cut.h"
#include "report_json.h"
#include "stand_in_step.h"
#include "weft/base/status.h"
#include "weft/session/publisher.h"
#include "weft/session/rank_placement.h"

namespace weft::apps {
namespace {

struct PublishArgs {
  std::string catalog = kDefaultCatalog;
  catalog::ClientAccess access;
  std::vector<std::string> labels;
  std::string model;
  std::string checkpoint;
  std::string layout;
  std::string recipes;
  std::string mxfp4 = "bf16";
  std::string version = "run:0:0";
  std::string transport = "auto";
  std::string control = "none";
  std::string device = "cpu";
  int64_t rank = 0;
  int threads = 1;
  double timeout_seconds = 60;
  bool json = false;

  base::Deadline deadline() const { return AfterSeconds(timeout_seconds); }
};

void Say(const PublishArgs& args, const session::PublishReport& report) {
  if (args.json) {
    PrintLine(ToJson(report, args.rank).dump());
    return;
  }
  PrintLine(absl::StrCat("rank ", args.rank, " published ",
                         catalog::ToString(report.version.version), " (",
                         std::string(catalog::ToString(report.version.state)),
                         ", ", report.version.ranks_published, "/",
                         report.version.ranks_expected, " ranks), ",
                         HumanBytes(report.digest_bytes), " digested in ",
                         HumanSeconds(report.digest_seconds)));
}

// Lines on standard input: "step" changes every weight by the stand-in
// optimiser and publishes the next version, whose bytes are those of
// `weft shard --step N` after N such lines; "flip" changes a byte of the
// weights behind the version's back, a second one changes it back; "quit", or
// the end of input, ends.
absl::Status FollowControl(const PublishArgs& args,
                           const manifest::Placement& placement,
                           RankStore& store, uint64_t first_step,
                           session::Publisher& publisher) {
  int64_t steps_done = 0;
  std::string line;
  while (std::getline(std::cin, line) && line != "quit") {
    if (line == "flip") {
      WEFT_RETURN_IF_ERROR(store.FlipByte());
      if (args.json) PrintLine(nlohmann::json({{"event", "flipped"}}).dump());
      continue;
    }
    if (line != "step") {
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown control line \"", line, "\"; known are step, flip, quit"));
    }
    WEFT_RETURN_IF_ERROR(publisher.BeginUpdate(args.deadline()).status());
    WEFT_RETURN_IF_ERROR(
        ApplyStandInStep(placement, store.host(), steps_done, steps_done + 1));
    WEFT_RETURN_IF_ERROR(store.Upload());
    ++steps_done;
    WEFT_ASSIGN_OR_RETURN(
        const session::PublishReport report,
        publisher.Publish(first_step + static_cast<uint64_t>(steps_done),
                          args.deadline()));
    Say(args, report);
  }
  return absl::OkStatus();
}

absl::Status Publish(const PublishArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const catalog::VersionId version,
                        catalog::ParseVersionId(args.version));
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec spec,
                        recipe::ParseLayoutSpec(args.layout));
  WEFT_ASSIGN_OR_RETURN(
      LoadedModel model,
      LoadModel(args.checkpoint, args.recipes,
                ParseMxfp4Reading(args.mxfp4, Mxfp4Reading::kWithKernels)));
  WEFT_ASSIGN_OR_RETURN(
      recipe::RankLayout layout,
      model.recipe->Layout(model.config, spec, args.rank, model.logical));
  WEFT_ASSIGN_OR_RETURN(const DeviceChoice device, ChooseDevice(args.device));
  WEFT_ASSIGN_OR_RETURN(const auto catalog,
                        ConnectCatalog(args.catalog, args.access));
  WEFT_ASSIGN_OR_RETURN(auto transports,
                        MakeTransports(args.transport, device));

  session::PublisherOptions options;
  options.model = args.model;
  options.run_id = version.run_id;
  options.epoch = version.epoch;
  WEFT_ASSIGN_OR_RETURN(options.labels, ParseLabels(args.labels));
  options.placement = session::ToPlacement(std::move(layout));
  options.model_card = EncodeModelCard({model.config_json, model.logical});
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<RankStore> store,
                        RankStore::Allocate(options.placement, device));
  WEFT_RETURN_IF_ERROR(
      CutInto(model, options.placement, /*step=*/0, store->host()));
  WEFT_RETURN_IF_ERROR(store->Upload());
  // What was decoded of it is larger than the rank.
  model.checkpoint = checkpoint::Checkpoint();
  options.memory = store->memory();
  options.device = device.Options();
  options.catalog = catalog;
  options.transports = transports;
  options.num_threads = args.threads;
  const manifest::Placement placement = options.placement;
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<session::Publisher> publisher,
      session::Publisher::Create(std::move(options), args.deadline()));
  WEFT_ASSIGN_OR_RETURN(const session::PublishReport report,
                        publisher->Publish(version.step, args.deadline()));
  Say(args, report);
  if (args.control == "stdin") {
    return FollowControl(args, placement, *store, version.step, *publisher);
  }
  if (!args.json) PrintLine("serving; stop with ctrl-c");
  WaitForStopSignal();
  return absl::OkStatus();
}

}  // namespace

void AddPublish(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<PublishArgs>();
  CLI::App* command = app.add_subcommand(
      "publish", "Publish one trainer rank's shard of a checkpoint");
  command->footer(
      "example: weft publish --catalog 127.0.0.1:6470 --model smollm2 "
      "--checkpoint build/smollm2 --layout megatron:tp=1,pp=2 --rank 0");
  command->add_option("--catalog", args->catalog, "HOST:PORT of the catalog")
      ->capture_default_str();
  command->add_option("--model", args->model, "name to publish under")
      ->required();
  command
      ->add_option("--checkpoint", args->checkpoint,
                   "directory with config.json and safetensors")
      ->required();
  command
      ->add_option("--layout", args->layout,
                   "what this rank holds: hf, fsdp:..., megatron:...")
      ->required();
  command->add_option("--rank", args->rank, "rank within the layout")
      ->required()
      ->check(NotBelowZero());
  command->add_option("--version", args->version, "RUN:EPOCH:STEP")
      ->capture_default_str();
  command->add_option("--label", args->labels,
                      "NAME=VALUE that receivers may ask for: precision=fp8; "
                      "equal for all ranks, may be given again");
  command
      ->add_option("--transport", args->transport,
                   "auto, shm, ucx, nixl or cuda")
      ->capture_default_str();
  AddDeviceOption(*command, args->device);
  AddMxfp4Option(*command, args->mxfp4);
  command->add_option("--recipes", args->recipes,
                      "file or folder of further recipes");
  command->add_option("--threads", args->threads, "threads for digests")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command
      ->add_option("--timeout", args->timeout_seconds,
                   "seconds that any wait may take")
      ->capture_default_str();
  command
      ->add_option("--control", args->control,
                   "stdin: read the lines step, flip and quit")
      ->check(CLI::IsMember({"none", "stdin"}));
  AddAccessOptions(*command, args->access);
  command->add_flag("--json", args->json, "print JSON lines");
  command->callback([args, exit_code] {
    if (args->control == "none") BlockStopSignals();
    const absl::Status status = Publish(*args);
    *exit_code = status.ok() ? 0 : Fail("publish", status, args->json);
  });
}

}  // namespace weft::apps
