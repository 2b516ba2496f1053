#include "weft/tensor/box.h"

#include <algorithm>
#include <cassert>
#include <optional>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"

namespace weft::tensor {

namespace {

// nullopt if it does not fit. An empty range makes an empty box wherever it
// stands, however large the ranges before it.
std::optional<int64_t> ProductOfExtents(absl::Span<const Range> ranges) {
  for (const Range& range : ranges) {
    if (range.extent() == 0) return 0;
  }
  std::optional<int64_t> product = 1;
  for (const Range& range : ranges) {
    product = base::CheckedMul(*product, range.extent());
    if (!product.has_value()) return std::nullopt;
  }
  return product;
}

}  // namespace

absl::StatusOr<Box> Box::Make(absl::Span<const Range> ranges) {
  Box box;
  box.ranges_.assign(ranges.begin(), ranges.end());
  for (const Range& range : ranges) {
    if (range.begin < 0 || range.end < range.begin) {
      return absl::InvalidArgumentError(absl::StrCat(
          "range [", range.begin, ",", range.end, ") is not a valid interval"));
    }
  }
  const std::optional<int64_t> product = ProductOfExtents(ranges);
  if (!product.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "number of elements of box ", box.ToString(), " overflows 64 bits"));
  }
  box.num_elements_ = *product;
  return box;
}

absl::StatusOr<Box> Box::OfShape(absl::Span<const int64_t> shape) {
  absl::InlinedVector<Range, 4> ranges;
  for (const int64_t extent : shape) ranges.push_back({0, extent});
  return Make(ranges);
}

Shape Box::shape() const {
  Shape shape;
  for (const Range& range : ranges_) shape.push_back(range.extent());
  return shape;
}

Box Box::WithRange(int dim, Range range) const {
  assert(range.begin >= ranges_[dim].begin && range.end <= ranges_[dim].end &&
         range.begin <= range.end);
  Box box = *this;
  box.ranges_[dim] = range;
  box.num_elements_ = ProductOfExtents(box.ranges_).value_or(0);
  return box;
}

std::string Box::ToString() const {
  if (ranges_.empty()) return "[]";
  std::string text;
  for (const Range& range : ranges_) {
    absl::StrAppend(&text, text.empty() ? "" : "x", "[", range.begin, ",",
                    range.end, ")");
  }
  return text;
}

Box Intersect(const Box& a, const Box& b) {
  assert(a.rank() == b.rank());
  Box result = a;
  for (int dim = 0; dim < a.rank(); ++dim) {
    Range range{std::max(a.range(dim).begin, b.range(dim).begin),
                std::min(a.range(dim).end, b.range(dim).end)};
    if (range.end <= range.begin) {
      // An empty interval inside a, so that WithRange's contract holds.
      range = {a.range(dim).begin, a.range(dim).begin};
    }
    result = result.WithRange(dim, range);
  }
  return result;
}

std::vector<Box> Subtract(const Box& a, const Box& b) {
  if (a.empty()) return {};
  const Box overlap = Intersect(a, b);
  if (overlap.empty()) return {a};
  std::vector<Box> parts;
  Box rest = a;
  for (int dim = 0; dim < a.rank(); ++dim) {
    const Range whole = rest.range(dim);
    const Range cut = overlap.range(dim);
    if (whole.begin < cut.begin) {
      parts.push_back(rest.WithRange(dim, {whole.begin, cut.begin}));
    }
    if (cut.end < whole.end) {
      parts.push_back(rest.WithRange(dim, {cut.end, whole.end}));
    }
    rest = rest.WithRange(dim, cut);
  }
  return parts;
}

bool Contains(const Box& outer, const Box& inner) {
  assert(outer.rank() == inner.rank());
  if (inner.empty()) return true;
  for (int dim = 0; dim < outer.rank(); ++dim) {
    if (inner.range(dim).begin < outer.range(dim).begin ||
        inner.range(dim).end > outer.range(dim).end) {
      return false;
    }
  }
  return true;
}

}  // namespace weft::tensor
