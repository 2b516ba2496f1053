#include <string>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/manifest/placement.h"
#include "weft/tensor/conversion.h"

namespace weft::manifest {
namespace {

void CheckNames(const Placement& placement, base::FaultList& faults) {
  absl::flat_hash_set<std::string_view> seen;
  seen.reserve(placement.tensors.size());
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

// Adds the faults of `scaled` and returns which tensors it allows to be stored
// quantised.
std::vector<bool> CheckScaled(const Placement& placement,
                              base::FaultList& faults) {
  const auto size = static_cast<int64_t>(placement.tensors.size());
  std::vector<bool> is_scaled(placement.tensors.size(), false);
  int64_t last = -1;
  for (const layout::ScaledTensor& scaled : placement.scaled) {
    if (scaled.tensor <= last || scaled.tensor >= size || scaled.scales < 0 ||
        scaled.scales >= size) {
      faults.Add(absl::StrCat("scales ", scaled.scales, " of logical tensor ",
                              scaled.tensor, " after ", last,
                              " do not ascend within the ", size, " tensors"));
      return is_scaled;
    }
    last = scaled.tensor;
    const tensor::TensorSpec& matrix = placement.tensors[scaled.tensor];
    const tensor::TensorSpec& scales = placement.tensors[scaled.scales];
    absl::Status status = tensor::CheckScheme(scaled.scheme);
    if (status.ok()) {
      const absl::StatusOr<tensor::Shape> shape =
          tensor::ScaleShape(scaled.scheme, matrix.shape);
      status = shape.status();
      if (shape.ok() &&
          (scales.shape != *shape || scales.dtype != tensor::DType::kF32)) {
        status = absl::InvalidArgumentError(absl::StrCat(
            "they are ", std::string(tensor::DTypeName(scales.dtype)), " ",
            tensor::ShapeToString(scales.shape), ", not F32 ",
            tensor::ShapeToString(*shape)));
      }
    }
    if (!status.ok()) {
      faults.Add(absl::StrCat("\"", scales.name, "\" cannot be scales of \"",
                              matrix.name,
                              "\": ", std::string(status.message())));
      continue;
    }
    is_scaled[scaled.tensor] = true;
  }
  return is_scaled;
}

// Returns whether every fragment refers to a listed tensor.
bool CheckReferences(const Placement& placement,
                     const layout::StoredTensor& stored,
                     const std::vector<bool>& is_scaled,
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
    if (stored.dtype == tensor::DType::kF8E4M3 && is_scaled[fragment.tensor] &&
        fragment.transform == tensor::Transform::kNone) {
      continue;
    }
    const absl::Status convertible =
        tensor::CheckSupported({spec.dtype, stored.dtype, fragment.transform});
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
  const std::vector<bool> is_scaled = CheckScaled(placement, faults);
  for (const layout::StoredTensor& stored : placement.stored) {
    if (!CheckReferences(placement, stored, is_scaled, faults)) continue;
    const absl::Status tiling = layout::CheckTiling(stored, placement.tensors,
                                                    /*allow_holes=*/!is_target);
    if (!tiling.ok()) faults.Add(std::string(tiling.message()));
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace weft::manifest
