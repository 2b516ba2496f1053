#include "weft/plan/stand_in.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "weft/plan/box_set.h"

namespace weft::plan {
namespace {

// All that must be equal but the elements.
using Form = std::tuple<std::string_view, tensor::Shape, tensor::DType,
                        tensor::DType, tensor::Transform>;

Form FormOf(const manifest::Placement& placement,
            const layout::StoredTensor& stored,
            const layout::Fragment& fragment) {
  const tensor::TensorSpec& spec = placement.tensors[fragment.tensor];
  return {spec.name, spec.shape, spec.dtype, stored.dtype, fragment.transform};
}

}  // namespace

bool CanStandInFor(const manifest::Placement& holder,
                   const manifest::Placement& shard) {
  std::map<Form, std::vector<const tensor::Box*>> held;
  for (const layout::StoredTensor& stored : holder.stored) {
    for (const layout::Fragment& fragment : stored.fragments) {
      held[FormOf(holder, stored, fragment)].push_back(&fragment.map.box());
    }
  }
  const auto is_held = [&](const layout::StoredTensor& stored,
                           const layout::Fragment& fragment) {
    const auto boxes = held.find(FormOf(shard, stored, fragment));
    return boxes != held.end() &&
           SubtractAll(fragment.map.box(), boxes->second).empty();
  };
  return std::all_of(
      shard.stored.begin(), shard.stored.end(), [&](const auto& stored) {
        return std::all_of(
            stored.fragments.begin(), stored.fragments.end(),
            [&](const auto& fragment) { return is_held(stored, fragment); });
      });
}

}  // namespace weft::plan
