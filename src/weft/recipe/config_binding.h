// The symbols of a recipe's `config` section for one config.json and one
// checkpoint. Private to this room.
#ifndef WEFT_RECIPE_CONFIG_BINDING_H_
#define WEFT_RECIPE_CONFIG_BINDING_H_

#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "weft/recipe/model_config.h"
#include "weft/recipe/recipe_tables.h"

namespace weft::recipe {

using TensorNames = absl::flat_hash_set<std::string>;

// Values of the config's symbols. `held`: the names of the checkpoint's
// tensors, for `present`. kInvalidArgument that names every field that is
// missing or out of range.
absl::StatusOr<Environment> BindConfig(const RecipeTables& tables,
                                       const ModelConfig& config,
                                       const TensorNames& held);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_CONFIG_BINDING_H_
