#include "weft/layout/index_map.h"

#include <cassert>
#include <cstddef>
#include <limits>
#include <optional>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"

namespace weft::layout {
namespace {

// Adds the largest offset that `modes` reach to `largest`.
absl::Status AddLargestOffset(const DimModes& modes, int64_t& largest) {
  for (const Mode& mode : modes) {
    const std::optional<int64_t> reach =
        base::CheckedMul(mode.extent - 1, mode.stride);
    const std::optional<int64_t> sum =
        reach ? base::CheckedAdd(largest, *reach) : std::nullopt;
    // One past the largest offset must fit as well.
    if (!sum || *sum == std::numeric_limits<int64_t>::max()) {
      return absl::InvalidArgumentError(absl::StrCat("largest offset of modes ",
                                                     ToString(modes),
                                                     " does not fit 64 bits"));
    }
    largest = *sum;
  }
  return absl::OkStatus();
}

// Checks that `modes` describe a dimension of `extent` > 0 coordinates.
absl::Status CheckModes(const DimModes& modes, int dim, int64_t extent) {
  int64_t product = 1;
  for (const Mode& mode : modes) {
    if (mode.extent < 1 || mode.stride < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "mode ", mode.extent, ":", mode.stride, " of dimension ", dim,
          " needs an extent of at least 1 and a stride of at least 0"));
    }
    const std::optional<int64_t> next = base::CheckedMul(product, mode.extent);
    if (!next) {
      return absl::InvalidArgumentError(
          absl::StrCat("extent of modes ", ToString(modes), " of dimension ",
                       dim, " does not fit 64 bits"));
    }
    product = *next;
  }
  if (product == extent) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "modes ", ToString(modes), " of dimension ", dim, " have extent ",
      product, " but the box has extent ", extent, " there"));
}

// Part of one dimension on which `modes` describe the map.
struct DimPiece {
  tensor::Range range;  // relative to the begin of the map's box
  DimModes modes;
  int64_t offset_elements = 0;
};
using DimPieces = absl::InlinedVector<DimPiece, 3>;

// Cuts the function of the `num_digits` lowest digits to [begin, end): what is
// left of the first and of the last block of the highest digit, and the whole
// blocks between them. `origin` is where coordinate 0 of these digits lies.
void CutDigits(const DimModes& digits, std::size_t num_digits,
               tensor::Range cut, int64_t origin, int64_t offset_elements,
               DimPieces& pieces) {
  if (num_digits == 0) {
    pieces.push_back({{origin, origin + 1}, {}, offset_elements});
    return;
  }
  const std::size_t top = num_digits - 1;
  const int64_t stride = digits[top].stride;
  int64_t block = 1;
  for (std::size_t k = 0; k < top; ++k) block *= digits[k].extent;

  const auto cut_block = [&](int64_t index, int64_t begin, int64_t end) {
    CutDigits(digits, top, {begin, end}, origin + index * block,
              offset_elements + index * stride, pieces);
  };
  int64_t first = cut.begin / block;
  const int64_t whole_end = cut.end / block;
  if (first == (cut.end - 1) / block) {
    cut_block(first, cut.begin - first * block, cut.end - first * block);
    return;
  }
  if (cut.begin % block != 0) {
    cut_block(first, cut.begin % block, block);
    ++first;
  }
  if (first < whole_end) {
    DimPiece piece{{origin + first * block, origin + whole_end * block},
                   {},
                   offset_elements + first * stride};
    piece.modes.assign(digits.begin(),
                       digits.begin() + static_cast<std::ptrdiff_t>(top));
    piece.modes.push_back({whole_end - first, stride});
    pieces.push_back(std::move(piece));
  }
  if (cut.end % block != 0) cut_block(whole_end, 0, cut.end % block);
}

}  // namespace

absl::StatusOr<IndexMap> IndexMap::Make(tensor::Box box,
                                        std::vector<DimModes> modes,
                                        int64_t offset_elements) {
  if (static_cast<int>(modes.size()) != box.rank()) {
    return absl::InvalidArgumentError(
        absl::StrCat(modes.size(), " lists of modes for box ", box.ToString(),
                     "; give one a dimension"));
  }
  if (offset_elements < 0 ||
      offset_elements == std::numeric_limits<int64_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("offset ", offset_elements, " of the map of box ",
                     box.ToString(), " is negative or does not fit 64 bits"));
  }
  int64_t largest = offset_elements;
  for (int dim = 0; dim < box.rank(); ++dim) {
    DimModes& dim_modes = modes[dim];
    if (box.extent(dim) == 0) {
      dim_modes.clear();
      continue;
    }
    WEFT_RETURN_IF_ERROR(CheckModes(dim_modes, dim, box.extent(dim)));
    WEFT_RETURN_IF_ERROR(AddLargestOffset(dim_modes, largest));
    dim_modes = Coalesce(dim_modes);
  }
  IndexMap map;
  map.box_ = std::move(box);
  map.modes_.assign(std::make_move_iterator(modes.begin()),
                    std::make_move_iterator(modes.end()));
  map.offset_elements_ = offset_elements;
  return map;
}

absl::StatusOr<IndexMap> IndexMap::RowMajor(
    const tensor::Box& box, absl::Span<const int64_t> stored_shape,
    absl::Span<const int64_t> origin) {
  const int rank = box.rank();
  if (static_cast<int>(stored_shape.size()) != rank ||
      static_cast<int>(origin.size()) != rank) {
    return absl::InvalidArgumentError(absl::StrCat(
        "box ", box.ToString(), " has rank ", rank, " but the stored shape [",
        absl::StrJoin(stored_shape, ","), "] has ", stored_shape.size(),
        " dimensions and the origin ", origin.size()));
  }
  WEFT_ASSIGN_OR_RETURN(const tensor::Box stored,
                        tensor::Box::OfShape(stored_shape));
  std::vector<DimModes> modes(static_cast<std::size_t>(rank));
  int64_t stride = 1;
  int64_t offset_elements = 0;
  for (int dim = rank - 1; dim >= 0; --dim) {
    if (origin[dim] < 0 || origin[dim] > stored_shape[dim] ||
        box.extent(dim) > stored_shape[dim] - origin[dim]) {
      return absl::InvalidArgumentError(absl::StrCat(
          "box ", box.ToString(), " at stored coordinate [",
          absl::StrJoin(origin, ","), "] exceeds stored shape [",
          absl::StrJoin(stored_shape, ","), "] in dimension ", dim));
    }
    modes[dim] = DimModes{Mode{box.extent(dim), stride}};
    if (stored.empty()) continue;  // nothing lies anywhere
    offset_elements += origin[dim] * stride;
    stride *= stored_shape[dim];
  }
  return Make(box, std::move(modes), offset_elements);
}

int64_t IndexMap::OffsetOf(absl::Span<const int64_t> x) const {
  assert(static_cast<int>(x.size()) == box_.rank());
  int64_t offset = offset_elements_;
  for (int dim = 0; dim < box_.rank(); ++dim) {
    offset += layout::OffsetOf(modes_[dim], x[dim] - box_.range(dim).begin);
  }
  return offset;
}

int64_t IndexMap::end_offset_elements() const {
  if (box_.empty()) return 0;
  int64_t largest = offset_elements_;
  for (const DimModes& dim_modes : modes_) {
    for (const Mode& mode : dim_modes) {
      largest += (mode.extent - 1) * mode.stride;
    }
  }
  return largest + 1;
}

std::string IndexMap::ToString() const {
  std::string text = absl::StrCat(box_.ToString(), " :");
  for (const DimModes& dim_modes : modes_) {
    absl::StrAppend(&text, " ", layout::ToString(dim_modes));
  }
  absl::StrAppend(&text, " + ", offset_elements_);
  return text;
}

std::vector<IndexMap> Restrict(const IndexMap& map, const tensor::Box& box) {
  assert(map.box().rank() == box.rank());
  const tensor::Box common = tensor::Intersect(map.box(), box);
  if (common.empty()) return {};
  const int rank = common.rank();
  std::vector<DimPieces> pieces(static_cast<std::size_t>(rank));
  for (int dim = 0; dim < rank; ++dim) {
    const int64_t origin = map.box().range(dim).begin;
    CutDigits(
        map.modes(dim), map.modes(dim).size(),
        {common.range(dim).begin - origin, common.range(dim).end - origin}, 0,
        0, pieces[dim]);
  }
  // Every combination of the dimensions' pieces, the last dimension fastest.
  std::vector<IndexMap> result;
  absl::InlinedVector<std::size_t, 4> choice(static_cast<std::size_t>(rank), 0);
  while (true) {
    tensor::Box part = common;
    std::vector<DimModes> modes;
    int64_t offset_elements = map.offset_elements();
    for (int dim = 0; dim < rank; ++dim) {
      const DimPiece& piece = pieces[dim][choice[dim]];
      const int64_t origin = map.box().range(dim).begin;
      part = part.WithRange(
          dim, {origin + piece.range.begin, origin + piece.range.end});
      modes.push_back(piece.modes);
      offset_elements += piece.offset_elements;
    }
    absl::StatusOr<IndexMap> made =
        IndexMap::Make(std::move(part), std::move(modes), offset_elements);
    assert(made.ok());  // a part of a valid map is valid
    result.push_back(*std::move(made));
    int dim = rank - 1;
    while (dim >= 0 && ++choice[dim] == pieces[dim].size()) choice[dim--] = 0;
    if (dim < 0) return result;
  }
}

absl::StatusOr<IndexMap> Permute(const IndexMap& map,
                                 absl::Span<const int> perm) {
  const int rank = map.box().rank();
  absl::InlinedVector<bool, 4> seen(static_cast<std::size_t>(rank), false);
  bool valid = static_cast<int>(perm.size()) == rank;
  for (const int dim : perm) {
    if (!valid || dim < 0 || dim >= rank || seen[dim]) {
      valid = false;
      break;
    }
    seen[dim] = true;
  }
  if (!valid) {
    return absl::InvalidArgumentError(absl::StrCat(
        "[", absl::StrJoin(perm, ","), "] is not a permutation of the ", rank,
        " dimensions of box ", map.box().ToString()));
  }
  absl::InlinedVector<tensor::Range, 4> ranges;
  std::vector<DimModes> modes;
  for (const int dim : perm) {
    ranges.push_back(map.box().range(dim));
    modes.push_back(map.modes(dim));
  }
  WEFT_ASSIGN_OR_RETURN(tensor::Box box, tensor::Box::Make(ranges));
  return IndexMap::Make(std::move(box), std::move(modes),
                        map.offset_elements());
}

}  // namespace weft::layout
