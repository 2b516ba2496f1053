#include "weft/session/rank_placement.h"

#include <utility>

#include "weft/session/quantised_copy_internal.h"

namespace weft::session {

manifest::Placement ToPlacement(recipe::RankLayout layout) {
  manifest::Placement placement;
  placement.layout_spec = std::move(layout.layout_spec);
  placement.rank = layout.rank;
  placement.num_ranks = layout.num_ranks;
  placement.tensors = std::move(layout.tensors);
  placement.stored = std::move(layout.stored);
  placement.scaled = std::move(layout.scaled);
  return placement;
}

absl::Status AddQuantisedCopies(manifest::Placement& placement) {
  return QuantisedCopies::AddTo(placement).status();
}

}  // namespace weft::session
