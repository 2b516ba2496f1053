// Box: half-open ranges in logical coordinates, one per dimension.
//
//   B = [b_0,e_0) x ... x [b_{n-1},e_{n-1}),   |B| = prod (e_d - b_d)
//
// A box of rank 0 has one element (a scalar). Value type, immutable once made.
#ifndef WEFT_TENSOR_BOX_H_
#define WEFT_TENSOR_BOX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace weft::tensor {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t extent() const { return end - begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

using Shape = absl::InlinedVector<int64_t, 4>;

class Box {
 public:
  Box() = default;  // rank 0, one element

  // Fails with kInvalidArgument on a range with begin < 0 or end < begin, or
  // when the number of elements does not fit int64.
  static absl::StatusOr<Box> Make(absl::Span<const Range> ranges);
  // [0,s_0) x [0,s_1) ...; same failures.
  static absl::StatusOr<Box> OfShape(absl::Span<const int64_t> shape);

  int rank() const { return static_cast<int>(ranges_.size()); }
  const Range& range(int dim) const { return ranges_[dim]; }
  absl::Span<const Range> ranges() const { return ranges_; }
  int64_t extent(int dim) const { return ranges_[dim].extent(); }
  int64_t num_elements() const { return num_elements_; }
  bool empty() const { return num_elements_ == 0; }
  Shape shape() const;

  // Same box with dimension `dim` replaced. Requires 0 <= begin <= end and the
  // new range inside the old one (so that no product can overflow).
  Box WithRange(int dim, Range range) const;

  // "[0,4)x[8,16)"; "[]" for rank 0.
  std::string ToString() const;

  friend bool operator==(const Box&, const Box&) = default;

 private:
  absl::InlinedVector<Range, 4> ranges_;
  int64_t num_elements_ = 1;
};

// All operations require equal ranks (a bug otherwise, asserted).

// x in Intersect(a,b)  <=>  x in a and x in b. Empty results have extent 0 in
// at least one dimension.
Box Intersect(const Box& a, const Box& b);

// Disjoint boxes whose union is { x : x in a, x not in b }. At most 2*rank
// boxes, none empty, in a deterministic order.
std::vector<Box> Subtract(const Box& a, const Box& b);

// For all x: x in inner => x in outer. True for an empty inner.
bool Contains(const Box& outer, const Box& inner);

}  // namespace weft::tensor

#endif  // WEFT_TENSOR_BOX_H_
