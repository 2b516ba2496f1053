#include "load_model.h"

#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/read_file.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

// Where config.json is looked for.
std::string FolderOf(const std::string& checkpoint_path) {
  std::error_code ignored;
  const std::filesystem::path path(checkpoint_path);
  if (std::filesystem::is_directory(path, ignored)) return checkpoint_path;
  const std::string parent = path.parent_path().string();
  return parent.empty() ? "." : parent;
}

// A recipe says what may be dropped; only the bytes say whether it is
// redundant.
void CheckDropped(const recipe::IgnoredTensor& dropped,
                  const checkpoint::Checkpoint& checkpoint,
                  base::FaultList& faults) {
  const auto held = checkpoint.Data(dropped.name);
  const auto original = checkpoint.Data(dropped.copy_of);
  // A missing original is a fault of its own.
  if (!held.ok() || !original.ok() || *held == *original) return;
  faults.Add(absl::StrCat(
      "the config ties the embeddings, but the file has a \"", dropped.name,
      "\" whose bytes differ from those of \"", dropped.copy_of,
      "\"; set tie_word_embeddings to false, or remove it"));
}

// Fills model.logical, and puts BF16 in place of MXFP4.
absl::Status CheckAgainstConfig(LoadedModel& model, Mxfp4Reading mxfp4) {
  base::FaultList faults;
  WEFT_ASSIGN_OR_RETURN(const std::vector<tensor::TensorSpec> without_options,
                        model.recipe->LogicalTensors(model.config));
  StandInForMxfp4(without_options, mxfp4, model.checkpoint, faults);
  absl::StatusOr<std::vector<tensor::TensorSpec>> matched =
      model.recipe->MatchTensors(model.config, model.checkpoint.tensors());
  if (matched.ok()) {
    model.logical = *std::move(matched);
  } else {
    faults.Add(std::string(matched.status().message()));
  }
  WEFT_ASSIGN_OR_RETURN(const std::vector<recipe::IgnoredTensor> ignored,
                        model.recipe->IgnoredTensors(model.config));
  for (const recipe::IgnoredTensor& dropped : ignored) {
    if (!dropped.copy_of.empty()) {
      CheckDropped(dropped, model.checkpoint, faults);
    }
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const std::string& checkpoint_path,
                                      const std::string& recipes_path,
                                      Mxfp4Reading mxfp4) {
  LoadedModel model;
  // First, because a wrong path shows best here.
  WEFT_ASSIGN_OR_RETURN(model.checkpoint,
                        checkpoint::Checkpoint::Open(checkpoint_path));
  const std::string config_path = FolderOf(checkpoint_path) + "/config.json";
  WEFT_ASSIGN_OR_RETURN(model.config, recipe::LoadModelConfig(config_path));
  WEFT_ASSIGN_OR_RETURN(model.config_json, base::ReadFile(config_path));
  WEFT_ASSIGN_OR_RETURN(model.recipes, recipe::RecipeBook::Load(recipes_path));
  WEFT_ASSIGN_OR_RETURN(model.recipe,
                        model.recipes.Find(model.config.architecture));
  WEFT_RETURN_IF_ERROR(base::Annotate(
      CheckAgainstConfig(model, mxfp4),
      absl::StrCat("checkpoint ", checkpoint_path, " does not fit its config (",
                   model.config.architecture, ")")));
  return model;
}

}  // namespace weft::apps
