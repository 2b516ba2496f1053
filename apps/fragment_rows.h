// The rows of a fragment: stretches along the last logical dimension that lie
// at one stride in the stored tensor. The plain commands walk these, so that
// they share nothing with the planner and the executor.
#ifndef WEFT_APPS_FRAGMENT_ROWS_H_
#define WEFT_APPS_FRAGMENT_ROWS_H_

#include <cstdint>

#include "weft/layout/index_map.h"
#include "weft/tensor/box.h"

namespace weft::apps {

// For 0 <= k < num_elements: the element at row-major index
// logical_begin + k of the logical tensor lies at element
// stored_begin + k * stored_stride of the stored tensor.
struct FragmentRow {
  int64_t logical_begin = 0;
  int64_t stored_begin = 0;
  int64_t stored_stride = 1;
  int64_t num_elements = 1;
};

// Calls visit(const FragmentRow&) so that each element of map.box() is in
// exactly one row. `logical_shape` is the shape of the whole logical tensor
// and must contain the box.
template <typename Visit>
void ForEachRow(const layout::IndexMap& map, const tensor::Shape& logical_shape,
                Visit visit) {
  const tensor::Box& box = map.box();
  if (box.empty()) return;
  if (box.rank() == 0) {
    visit(FragmentRow{0, map.offset_elements(), 1, 1});
    return;
  }
  const int last = box.rank() - 1;
  const layout::DimModes& digits = map.modes(last);
  const int64_t row_elements = digits.empty() ? 1 : digits[0].extent;
  const int64_t stride = digits.empty() ? 1 : digits[0].stride;
  tensor::Shape x;
  for (const tensor::Range& range : box.ranges()) x.push_back(range.begin);
  for (;;) {
    int64_t linear = 0;
    for (int dim = 0; dim <= last; ++dim) {
      linear = linear * logical_shape[dim] + x[dim];
    }
    visit(FragmentRow{linear, map.OffsetOf(x), stride, row_elements});
    x[last] += row_elements;
    for (int dim = last; x[dim] == box.range(dim).end; --dim) {
      if (dim == 0) return;
      x[dim] = box.range(dim).begin;
      ++x[dim - 1];
    }
  }
}

}  // namespace weft::apps

#endif  // WEFT_APPS_FRAGMENT_ROWS_H_
