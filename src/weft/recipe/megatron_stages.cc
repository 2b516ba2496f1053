#include "weft/recipe/megatron_stages.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::recipe {
namespace {

int64_t StagesLeft(const MegatronStages& stages) {
  return stages.pp - (stages.first > 0 ? 1 : 0) - (stages.last > 0 ? 1 : 0);
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

}  // namespace

absl::StatusOr<tensor::Range> MegatronStageLayers(const MegatronStages& stages,
                                                  int64_t stage) {
  if (stages.first == 0 && stages.last == 0) {
    if (stages.num_layers % stages.pp != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "pp=", stages.pp, " does not divide num_hidden_layers=",
          stages.num_layers, "; give first= or last= to split unevenly"));
    }
    const int64_t count = stages.num_layers / stages.pp;
    return tensor::Range{stage * count, (stage + 1) * count};
  }
  WEFT_RETURN_IF_ERROR(CheckUneven(stages));
  const int64_t layers_left = stages.num_layers - stages.first - stages.last;
  const int64_t stages_left = StagesLeft(stages);
  const int64_t middle = stages_left > 0 ? layers_left / stages_left : 0;
  const int64_t stages_before = stage - (stages.first > 0 && stage > 0 ? 1 : 0);
  const int64_t begin = (stage > 0 ? stages.first : 0) + stages_before * middle;
  int64_t count = middle;
  if (stage == 0 && stages.first > 0) count = stages.first;
  if (stage == stages.pp - 1 && stages.last > 0) count = stages.last;
  return tensor::Range{begin, begin + count};
}

}  // namespace weft::recipe
