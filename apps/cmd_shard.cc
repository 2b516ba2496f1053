// weft shard: what one rank of a layout holds, as a file. The plain path: a
// recipe's tables and an element gather, without planner and executor.
#include <CLI/CLI.hpp>
#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "load_model.h"
#include "option_checks.h"
#include "plain_cut.h"
#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/recipe/layout_spec.h"

namespace weft::apps {
namespace {

absl::Status Shard(const ShardArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec spec,
                        recipe::ParseLayoutSpec(args.layout));
  // Refuse now and not after the work.
  if (!args.overwrite) {
    WEFT_RETURN_IF_ERROR(checkpoint::CheckMayCreate(args.out));
  }
  WEFT_ASSIGN_OR_RETURN(
      const LoadedModel model,
      LoadModel(args.checkpoint, args.recipes,
                ParseMxfp4Reading(args.mxfp4, Mxfp4Reading::kPlainly)));
  WEFT_ASSIGN_OR_RETURN(
      const recipe::RankLayout held,
      model.recipe->Layout(model.config, spec, args.rank, model.logical));
  std::vector<std::vector<std::byte>> cuts;
  std::vector<checkpoint::TensorToWrite> tensors;
  int64_t bytes = 0;
  for (const layout::StoredTensor& stored : held.stored) {
    WEFT_ASSIGN_OR_RETURN(std::vector<std::byte> cut,
                          CutStored(stored, held.tensors, held.scaled,
                                    model.checkpoint, args.step));
    bytes += static_cast<int64_t>(cut.size());
    cuts.push_back(std::move(cut));
    tensors.push_back({{stored.name, stored.dtype, stored.shape}, cuts.back()});
  }
  WEFT_RETURN_IF_ERROR(
      checkpoint::WriteSafetensors(args.out, tensors,
                                   {{"format", "pt"},
                                    {"weft_layout", held.layout_spec},
                                    {"weft_rank", absl::StrCat(held.rank)},
                                    {"weft_step", absl::StrCat(args.step)}},
                                   args.overwrite));
  if (args.json) {
    PrintLine(nlohmann::json({{"file", args.out},
                              {"layout", held.layout_spec},
                              {"rank", held.rank},
                              {"num_ranks", held.num_ranks},
                              {"step", args.step},
                              {"tensors", tensors.size()},
                              {"bytes", bytes}})
                  .dump());
  } else {
    PrintLine(absl::StrCat("wrote ", args.out, ": rank ", held.rank, " of ",
                           held.num_ranks, " of ", held.layout_spec, ", ",
                           tensors.size(), " tensors, ", HumanBytes(bytes)));
  }
  return absl::OkStatus();
}

}  // namespace

int RunShard(const ShardArgs& args) {
  const absl::Status status = Shard(args);
  return status.ok() ? 0 : Fail("shard", status, args.json);
}

void AddShard(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<ShardArgs>();
  CLI::App* command = app.add_subcommand(
      "shard", "Cut what one rank of a layout holds from a checkpoint");
  command->footer(
      "example: weft shard --checkpoint build/smollm2 "
      "--layout megatron:tp=1,pp=2 --rank 1 --out rank1.safetensors");
  command
      ->add_option("--checkpoint", args->checkpoint,
                   "directory with config.json and safetensors")
      ->required();
  command
      ->add_option("--layout", args->layout,
                   "hf, fsdp:..., megatron:... or vllm:...")
      ->required();
  command->add_option("--rank", args->rank, "rank within the layout")
      ->required()
      ->check(NotBelowZero());
  command->add_option("--out", args->out, "safetensors file to write")
      ->required();
  command
      ->add_option("--step", args->step,
                   "cut the weights after this many stand-in optimiser steps")
      ->check(NotBelowZero())
      ->capture_default_str();
  command->add_flag("--overwrite", args->overwrite,
                    "replace --out if it exists");
  AddMxfp4Option(*command, args->mxfp4);
  command->add_option("--recipes", args->recipes,
                      "file or folder of further recipes");
  command->add_flag("--json", args->json, "print one JSON object");
  command->callback([args, exit_code] { *exit_code = RunShard(*args); });
}

}  // namespace weft::apps
