#include "load_model.h"

#include <filesystem>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "text_file.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

// The two tensors that tied embeddings are about. A recipe says that the head
// may be dropped; only the bytes say whether it is redundant.
constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";

// Where config.json is looked for.
std::string FolderOf(const std::string& checkpoint_path) {
  std::error_code ignored;
  const std::filesystem::path path(checkpoint_path);
  if (std::filesystem::is_directory(path, ignored)) return checkpoint_path;
  const std::string parent = path.parent_path().string();
  return parent.empty() ? "." : parent;
}

void CheckDroppedHead(const checkpoint::Checkpoint& checkpoint,
                      base::FaultList& faults) {
  const auto head = checkpoint.Data(kHead);
  const auto embedding = checkpoint.Data(kEmbedding);
  // A missing embedding is a fault of its own.
  if (!head.ok() || !embedding.ok() || *head == *embedding) return;
  faults.Add(
      absl::StrCat("the config ties the embeddings, but the file has a \"",
                   kHead, "\" whose bytes differ from those of \"", kEmbedding,
                   "\"; set tie_word_embeddings to false, or remove it"));
}

// Fills model.logical, and puts BF16 in place of MXFP4.
absl::Status CheckAgainstConfig(LoadedModel& model, Mxfp4Reading mxfp4) {
  base::FaultList faults;
  WEFT_ASSIGN_OR_RETURN(const std::vector<tensor::TensorSpec> without_options,
                        model.recipe->LogicalTensors(model.config));
  StandInForMxfp4(without_options, mxfp4, model.checkpoint, faults);
  std::vector<std::string> held;
  for (const tensor::TensorSpec& spec : model.checkpoint.tensors()) {
    held.push_back(spec.name);
  }
  WEFT_ASSIGN_OR_RETURN(model.logical,
                        model.recipe->LogicalTensorsOf(model.config, held));
  std::set<std::string> wanted;
  for (tensor::TensorSpec& spec : model.logical) {
    wanted.insert(spec.name);
    const absl::StatusOr<tensor::TensorSpec> found =
        model.checkpoint.Spec(spec.name);
    if (!found.ok()) {
      faults.Add(absl::StrCat("tensor \"", spec.name, "\" of shape ",
                              tensor::ShapeToString(spec.shape),
                              " is missing"));
    } else if (found->shape != spec.shape) {
      faults.Add(absl::StrCat("tensor \"", spec.name, "\" has the shape ",
                              tensor::ShapeToString(found->shape),
                              ", but the config gives ",
                              tensor::ShapeToString(spec.shape)));
    } else {
      spec.dtype = found->dtype;
    }
  }
  for (const tensor::TensorSpec& held : model.checkpoint.tensors()) {
    if (wanted.contains(held.name)) continue;
    WEFT_ASSIGN_OR_RETURN(const bool ignorable,
                          model.recipe->IsIgnorable(model.config, held.name));
    if (!ignorable) {
      faults.Add(absl::StrCat("tensor \"", held.name, "\" of shape ",
                              tensor::ShapeToString(held.shape),
                              " does not belong to the model"));
    } else if (held.name == kHead) {
      CheckDroppedHead(model.checkpoint, faults);
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
  WEFT_ASSIGN_OR_RETURN(model.config_json, ReadText(config_path));
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
