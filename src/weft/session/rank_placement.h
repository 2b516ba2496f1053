// What a recipe says of a rank, as the placement that a session publishes.
#ifndef WEFT_SESSION_RANK_PLACEMENT_H_
#define WEFT_SESSION_RANK_PLACEMENT_H_

#include "weft/manifest/placement.h"
#include "weft/recipe/recipe.h"

namespace weft::session {

manifest::Placement ToPlacement(recipe::RankLayout layout);

}  // namespace weft::session

#endif  // WEFT_SESSION_RANK_PLACEMENT_H_
