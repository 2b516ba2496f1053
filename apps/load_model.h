// A checkpoint directory with all that the commands need to know of it.
#ifndef WEFT_APPS_LOAD_MODEL_H_
#define WEFT_APPS_LOAD_MODEL_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mxfp4_experts.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/recipe/model_config.h"
#include "weft/recipe/recipe.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::apps {

struct LoadedModel {
  std::string config_json;  // the file's text
  recipe::ModelConfig config;
  recipe::RecipeBook recipes;  // owns `recipe`
  const recipe::Recipe* recipe = nullptr;
  checkpoint::Checkpoint checkpoint;
  // The recipe's logical tensors, in its order, with the checkpoint's dtypes.
  std::vector<tensor::TensorSpec> logical;
};

// Opens a checkpoint (a directory; or a .safetensors or an index, with
// config.json beside it) and checks it against its config: every logical
// tensor is there in its shape, and nothing else but what the recipe allows to
// drop. A head in the file of a model with tied embeddings is dropped if it
// equals the embedding, byte for byte. Experts in MXFP4 are read as BF16
// (mxfp4_experts.h). All disagreements in one kInvalidArgument status.
// `recipes_path`: as for RecipeBook::Load.
absl::StatusOr<LoadedModel> LoadModel(const std::string& checkpoint_path,
                                      const std::string& recipes_path,
                                      Mxfp4Reading mxfp4);

}  // namespace weft::apps

#endif  // WEFT_APPS_LOAD_MODEL_H_
