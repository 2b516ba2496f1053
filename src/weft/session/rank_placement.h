// What a recipe says of a rank, as the placement that a session publishes.
#ifndef WEFT_SESSION_RANK_PLACEMENT_H_
#define WEFT_SESSION_RANK_PLACEMENT_H_

#include "absl/status/status.h"
#include "weft/manifest/placement.h"
#include "weft/recipe/recipe.h"

namespace weft::session {

manifest::Placement ToPlacement(recipe::RankLayout layout);

// What a publisher of `placement` offers: that, and FP8 copies of the blocks
// that it holds whole of the matrices in `placement.scaled`.
absl::Status AddQuantisedCopies(manifest::Placement& placement);

}  // namespace weft::session

#endif  // WEFT_SESSION_RANK_PLACEMENT_H_
