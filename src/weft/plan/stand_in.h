// Whether who holds one placement can give all that another one would.
#ifndef WEFT_PLAN_STAND_IN_H_
#define WEFT_PLAN_STAND_IN_H_

#include "weft/manifest/placement.h"

namespace weft::plan {

// True when `holder` stores every element that `shard` stores, of tensors of
// the same name, shape and dtype, in the same stored dtype and by the same
// transform: a plan finds in it whatever it would find in `shard`. Ranks,
// meshes and the order of what is stored do not matter.
bool CanStandInFor(const manifest::Placement& holder,
                   const manifest::Placement& shard);

}  // namespace weft::plan

#endif  // WEFT_PLAN_STAND_IN_H_
