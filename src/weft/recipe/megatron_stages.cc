#include "weft/recipe/megatron_stages.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/recipe/megatron_layout.h"

namespace weft::recipe {
namespace {

int64_t StagesLeft(const MegatronStages& stages) {
  return stages.pp - (stages.first > 0 ? 1 : 0) - (stages.last > 0 ? 1 : 0);
}

bool IsUneven(const MegatronStages& stages) {
  return stages.first > 0 || stages.last > 0;
}

absl::Status CheckUneven(const MegatronStages& stages) {
  const std::string given =
      absl::StrCat(stages.first > 0 ? absl::StrCat("first=", stages.first) : "",
                   stages.first > 0 && stages.last > 0 ? " and " : "",
                   stages.last > 0 ? absl::StrCat("last=", stages.last) : "");
  if (stages.pp == 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(given,
                     " with pp=1: a split of the layers needs pp of 2 "
                     "or more"));
  }
  if (stages.embedding_in_split || stages.loss_in_split) {
    return absl::InvalidArgumentError(absl::StrCat(
        given, " cannot go with embedding_in_split or loss_in_split"));
  }
  if (stages.first > stages.num_layers || stages.last > stages.num_layers ||
      stages.first + stages.last > stages.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat(
        given, " is more than num_hidden_layers=", stages.num_layers));
  }
  const int64_t layers_left = stages.num_layers - stages.first - stages.last;
  const int64_t stages_left = StagesLeft(stages);
  // The framework refuses both: layers without a stage, a stage without layers.
  if ((layers_left == 0) != (stages_left == 0) ||
      (stages_left > 0 && layers_left % stages_left != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(given, " with pp=", stages.pp, " leaves ", layers_left,
                     " of num_hidden_layers=", stages.num_layers, " for ",
                     stages_left, " stages, which do not share them evenly"));
  }
  return absl::OkStatus();
}

int64_t SlotsOf(const MegatronStages& stages) {
  return stages.num_layers + (stages.embedding_in_split ? 1 : 0) +
         (stages.loss_in_split ? 1 : 0);
}

absl::Status CheckEven(const MegatronStages& stages) {
  const int64_t slots = SlotsOf(stages);
  if (slots % stages.pp == 0) return absl::OkStatus();
  if (slots != stages.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pp=", stages.pp, " does not divide the ", slots,
        " places of num_hidden_layers=", stages.num_layers,
        " with embedding_in_split=", stages.embedding_in_split ? 1 : 0,
        " and loss_in_split=", stages.loss_in_split ? 1 : 0));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "pp=", stages.pp, " does not divide num_hidden_layers=",
      stages.num_layers, "; give first= or last= to split unevenly"));
}

// Layers, with embedding and loss where they count as one, of `stage`.
int64_t SlotsOfStage(const MegatronStages& stages, int64_t stage) {
  if (!IsUneven(stages)) return SlotsOf(stages) / stages.pp;
  if (stage == 0 && stages.first > 0) return stages.first;
  if (stage == stages.pp - 1 && stages.last > 0) return stages.last;
  return (stages.num_layers - stages.first - stages.last) / StagesLeft(stages);
}

absl::Status CheckChunks(const MegatronStages& stages) {
  if (stages.vpp == 1) return absl::OkStatus();
  if (stages.pp == 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "vpp=", stages.vpp, " with pp=1: virtual stages need pp of 2 or more"));
  }
  for (const int64_t stage : {int64_t{0}, stages.pp / 2, stages.pp - 1}) {
    const int64_t slots = SlotsOfStage(stages, stage);
    if (slots >= stages.vpp && slots % stages.vpp == 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("vpp=", stages.vpp, " does not divide the ", slots,
                     " layers of stage ", stage));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<StageChunk>> MegatronStageChunks(
    const MegatronStages& stages, int64_t stage) {
  std::vector<StageChunk> result;
  if (!stages.layout.empty()) {
    if (IsUneven(stages) || SlotsOf(stages) != stages.num_layers) {
      return absl::InvalidArgumentError(
          "layout= cannot go with first, last, embedding_in_split or "
          "loss_in_split");
    }
    WEFT_ASSIGN_OR_RETURN(const std::vector<StageChunk> all,
                          ParseMegatronLayout(stages));
    for (int64_t c = 0; c < stages.vpp; ++c) {
      result.push_back(all[c * stages.pp + stage]);
    }
    return result;
  }
  WEFT_RETURN_IF_ERROR(IsUneven(stages) ? CheckUneven(stages)
                                        : CheckEven(stages));
  WEFT_RETURN_IF_ERROR(CheckChunks(stages));
  // All stages but the first have the same number before them up to the last.
  const int64_t before =
      stage == 0
          ? 0
          : SlotsOfStage(stages, 0) +
                (stage - 1) * SlotsOfStage(stages, stages.pp > 2 ? 1 : 0);
  const int64_t of_embedding = stages.embedding_in_split ? 1 : 0;
  const int64_t of_loss = stages.loss_in_split ? 1 : 0;
  for (int64_t c = 0; c < stages.vpp; ++c) {
    StageChunk& chunk = result.emplace_back();
    chunk.first = c == 0 && stage == 0;
    chunk.last = c == stages.vpp - 1 && stage == stages.pp - 1;
    chunk.mtp = chunk.last;
    const int64_t slot = (c * SlotsOf(stages) + before) / stages.vpp;
    const int64_t end =
        slot + SlotsOfStage(stages, stage) / stages.vpp - of_embedding;
    chunk.layers = {chunk.first ? 0 : slot - of_embedding,
                    chunk.last ? end - of_loss : end};
    if (chunk.layers.end < chunk.layers.begin) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a stage of one place has both the embedding and the loss: "
          "num_hidden_layers=",
          stages.num_layers, " with pp=", stages.pp, " and vpp=", stages.vpp));
    }
  }
  return result;
}

}  // namespace weft::recipe
