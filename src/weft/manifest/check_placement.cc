#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/manifest/placement.h"
#include "weft/tensor/conversion.h"

namespace weft::manifest {
namespace {

void CheckNames(const Placement& placement, base::FaultList& faults) {
  absl::flat_hash_set<std::string> seen;
  for (const tensor::TensorSpec& spec : placement.tensors) {
    if (!seen.insert(spec.name).second) {
      faults.Add(
          absl::StrCat("logical tensor \"", spec.name, "\" is listed twice"));
    }
  }
  seen.clear();
  for (const layout::StoredTensor& stored : placement.stored) {
    if (!seen.insert(stored.name).second) {
      faults.Add(
          absl::StrCat("stored tensor \"", stored.name, "\" is listed twice"));
    }
  }
}

// Returns whether every fragment refers to a listed tensor.
bool CheckReferences(const Placement& placement,
                     const layout::StoredTensor& stored,
                     base::FaultList& faults) {
  bool good = true;
  for (const layout::Fragment& fragment : stored.fragments) {
    if (fragment.tensor < 0 ||
        static_cast<size_t>(fragment.tensor) >= placement.tensors.size()) {
      faults.Add(absl::StrCat("a fragment of \"", stored.name,
                              "\" refers to logical tensor ", fragment.tensor,
                              " of ", placement.tensors.size()));
      good = false;
      continue;
    }
    const tensor::TensorSpec& spec = placement.tensors[fragment.tensor];
    const absl::Status convertible =
        tensor::CheckSupported({spec.dtype, stored.dtype});
    if (!convertible.ok()) {
      faults.Add(absl::StrCat("\"", stored.name, "\" holds \"", spec.name,
                              "\": ", std::string(convertible.message())));
    }
  }
  return good;
}

}  // namespace

absl::Status CheckPlacement(const Placement& placement, bool is_target) {
  base::FaultList faults;
  if (placement.rank < 0 || placement.rank >= placement.num_ranks) {
    faults.Add(absl::StrCat("rank ", placement.rank, " is not below the ",
                            placement.num_ranks, " ranks of \"",
                            placement.layout_spec, "\""));
  }
  CheckNames(placement, faults);
  for (const layout::StoredTensor& stored : placement.stored) {
    if (!CheckReferences(placement, stored, faults)) continue;
    const absl::Status tiling = layout::CheckTiling(stored, placement.tensors,
                                                    /*allow_holes=*/!is_target);
    if (!tiling.ok()) faults.Add(std::string(tiling.message()));
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace weft::manifest
