// Inside of room `plan`: questions about sets of boxes of one tensor.
#ifndef WEFT_PLAN_BOX_SET_H_
#define WEFT_PLAN_BOX_SET_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "weft/tensor/box.h"

namespace weft::plan {

// True when a and b share an element; both of the same rank.
bool Overlaps(const tensor::Box& a, const tensor::Box& b);

// Order by the ranges, first dimension first: (begin, end).
bool LessBox(const tensor::Box& a, const tensor::Box& b);

// Dimension along which the boxes begin at the most places, the first such;
// -1 for boxes of rank 0. `boxes` must not be empty.
int MostCutDimension(absl::Span<const tensor::Box* const> boxes);

// Positions of two boxes that share an element, or nullopt: a sweep along the
// most cut dimension.
std::optional<std::pair<size_t, size_t>> FindOverlap(
    absl::Span<const tensor::Box* const> boxes);

// Disjoint boxes whose union is `whole` minus all of `parts`.
std::vector<tensor::Box> SubtractAll(
    const tensor::Box& whole, absl::Span<const tensor::Box* const> parts);

// | union of boxes |, exactly; boxes may overlap and repeat.
int64_t UnionElements(std::vector<const tensor::Box*> boxes);

}  // namespace weft::plan

#endif  // WEFT_PLAN_BOX_SET_H_
