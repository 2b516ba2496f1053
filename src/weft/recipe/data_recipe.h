// ParseRecipe with a choice of where `include:` looks. Private to this room.
#ifndef WEFT_RECIPE_DATA_RECIPE_H_
#define WEFT_RECIPE_DATA_RECIPE_H_

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "weft/recipe/recipe.h"
#include "weft/recipe/recipe_parser.h"

namespace weft::recipe {

absl::StatusOr<std::shared_ptr<const Recipe>> ParseRecipeWithIncludes(
    std::string_view yaml_text, std::string_view file_name,
    const IncludeReader& include);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_DATA_RECIPE_H_
