#include "weft/layout/mesh.h"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"

namespace weft::layout {
namespace {

constexpr int64_t kMaxRanks = int64_t{1} << 31;

}  // namespace

absl::StatusOr<Mesh> Mesh::Make(std::vector<MeshAxis> axes) {
  Mesh mesh;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const MeshAxis& axis = axes[i];
    if (axis.degree < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("degree ", axis.degree, " of mesh axis \"", axis.name,
                       "\" is below 1"));
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (axes[j].name == axis.name) {
        return absl::InvalidArgumentError(absl::StrCat(
            "mesh axis \"", axis.name, "\" is given twice, with degrees ",
            axes[j].degree, " and ", axis.degree));
      }
    }
    if (axis.degree > kMaxRanks / mesh.num_ranks_) {
      return absl::InvalidArgumentError(absl::StrCat(
          "mesh axis \"", axis.name, "\" of degree ", axis.degree,
          " makes more than ", kMaxRanks, " ranks out of ", mesh.num_ranks_));
    }
    mesh.num_ranks_ *= axis.degree;
  }
  mesh.axes_ = std::move(axes);
  return mesh;
}

int64_t Mesh::Coordinate(int64_t rank, std::string_view axis) const {
  assert(rank >= 0 && rank < num_ranks_);
  for (const MeshAxis& each : axes_) {
    if (each.name == axis) return rank % each.degree;
    rank /= each.degree;
  }
  return 0;
}

int64_t Mesh::Degree(std::string_view axis) const {
  for (const MeshAxis& each : axes_) {
    if (each.name == axis) return each.degree;
  }
  return 1;
}

std::string Mesh::ToString() const {
  std::string text;
  for (const MeshAxis& axis : axes_) {
    absl::StrAppend(&text, text.empty() ? "" : " ", axis.name, "=",
                    axis.degree);
  }
  return text;
}

absl::StatusOr<tensor::Range> EvenSplit(int64_t n, int64_t k, int64_t r) {
  if (n < 0 || k < 1 || r < 0 || r >= k) {
    return absl::InvalidArgumentError(
        absl::StrCat("part ", r, " of ", k, " of ", n,
                     " elements does not exist; parts count from 0"));
  }
  if (n % k != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(n, " elements do not divide into ", k,
                     " even parts; choose a degree ", "that divides ", n));
  }
  return tensor::Range{r * (n / k), (r + 1) * (n / k)};
}

tensor::Range ChunkSplit(int64_t n, int64_t k, int64_t r) {
  assert(n >= 0 && k >= 1 && r >= 0 && r < k);
  const int64_t chunk = base::CeilDiv(n, k);
  // r*chunk may pass 2^63 when n is near it, so compare before multiplying.
  const auto start = [n, chunk](int64_t part) {
    return chunk == 0 || part > n / chunk ? n : std::min(n, part * chunk);
  };
  return {start(r), start(r + 1)};
}

}  // namespace weft::layout
