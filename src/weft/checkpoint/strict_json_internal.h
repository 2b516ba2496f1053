// JSON as this room reads it: a key that occurs twice in one object is an
// error, because two readers may then see two different files.
#ifndef WEFT_CHECKPOINT_STRICT_JSON_INTERNAL_H_
#define WEFT_CHECKPOINT_STRICT_JSON_INTERNAL_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace weft::checkpoint {

// Parses `text`, which must be one JSON value and whitespace. `max_depth`
// bounds the nesting. kInvalidArgument with the byte position, or with every
// key that is repeated.
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text,
                                               int max_depth);

}  // namespace weft::checkpoint

#endif  // WEFT_CHECKPOINT_STRICT_JSON_INTERNAL_H_
