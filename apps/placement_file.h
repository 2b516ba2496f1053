// A placement from a file that a Python program wrote
// (docs/formats/placement.md).
#ifndef WEFT_APPS_PLACEMENT_FILE_H_
#define WEFT_APPS_PLACEMENT_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "weft/manifest/placement.h"

namespace weft::apps {

// kInvalidArgument names what is missing or wrong; the placement has passed
// manifest::CheckPlacement as one that may have holes.
absl::StatusOr<manifest::Placement> ParsePlacementJson(const std::string& text);
// kUnavailable if the file cannot be read.
absl::StatusOr<manifest::Placement> LoadPlacement(const std::string& path);

}  // namespace weft::apps

#endif  // WEFT_APPS_PLACEMENT_FILE_H_
