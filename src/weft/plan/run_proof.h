// Inside of room `plan`: the proof that runs say what index maps say.
#ifndef WEFT_PLAN_RUN_PROOF_H_
#define WEFT_PLAN_RUN_PROOF_H_

#include <optional>
#include <string>

#include "absl/types/span.h"
#include "weft/layout/index_map.h"
#include "weft/layout/run.h"

namespace weft::plan {

// nullopt when the runs are exactly the pairs { (src(x), dst(x)) : x in box },
// each once; else what is wrong. `box` must lie in both maps' boxes and `dst`
// must be injective, as the fragments of a tiling are. The method is explained
// in the source file.
std::optional<std::string> FindRunFault(const layout::IndexMap& src,
                                        const layout::IndexMap& dst,
                                        const tensor::Box& box,
                                        absl::Span<const layout::Run> runs);

}  // namespace weft::plan

#endif  // WEFT_PLAN_RUN_PROOF_H_
