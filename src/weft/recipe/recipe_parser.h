// YAML text to RecipeTables. Private to this room.
#ifndef WEFT_RECIPE_RECIPE_PARSER_H_
#define WEFT_RECIPE_RECIPE_PARSER_H_

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "weft/recipe/recipe_tables.h"

namespace weft::recipe {

// Text of a file that `include:` names; kNotFound if there is none.
using IncludeReader =
    std::function<absl::StatusOr<std::string>(const std::string& name)>;

// kInvalidArgument that names file, line and key of the first fault.
absl::StatusOr<RecipeTables> ParseRecipeTables(std::string_view yaml_text,
                                               std::string_view file_name,
                                               const IncludeReader& include);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_RECIPE_PARSER_H_
