// Oracle for the layout algebra: the formulas of the headers, element by
// element, from the pieces a map was made of and without calling the code
// under test; and random maps that are printed in the notation of the docs.
#ifndef WEFT_LAYOUT_TESTING_ORACLE_H_
#define WEFT_LAYOUT_TESTING_ORACLE_H_

#include <rapidcheck.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "weft/layout/index_map.h"
#include "weft/layout/run.h"

namespace weft::layout::testing {

using Point = std::vector<int64_t>;

// The cases are tiny, so many more than RapidCheck's 100 are cheap. An
// RC_PARAMS that is set (to reproduce a failure, to soak) goes first.
inline const bool kManyCases =
    ::setenv("RC_PARAMS", "max_success=2000", /*overwrite=*/0) == 0;

// What IndexMap::Make was given.
struct MapParts {
  tensor::Box box;
  std::vector<DimModes> modes;
  int64_t offset = 0;

  IndexMap Made() const { return IndexMap::Make(box, modes, offset).value(); }
};

inline std::vector<Point> PointsOf(const tensor::Box& box) {
  std::vector<Point> points = {Point{}};
  for (const tensor::Range& range : box.ranges()) {
    std::vector<Point> longer;
    for (const Point& point : points) {
      for (int64_t x = range.begin; x < range.end; ++x) {
        longer.push_back(point);
        longer.back().push_back(x);
      }
    }
    points = std::move(longer);
  }
  return points;
}

// i = i_0 + e_0*(i_1 + e_1*(...)), sum of i_k*s_k.
inline int64_t DigitOffset(const DimModes& modes, int64_t i) {
  int64_t offset = 0;
  for (const Mode& mode : modes) {
    const int64_t digit = i % mode.extent;
    offset += digit * mode.stride;
    i = (i - digit) / mode.extent;
  }
  return offset;
}

// Offsets of every coordinate, straight from the header's formula.
inline std::map<Point, int64_t> Table(const MapParts& parts) {
  std::map<Point, int64_t> table;
  for (const Point& x : PointsOf(parts.box)) {
    int64_t offset = parts.offset;
    for (std::size_t dim = 0; dim < x.size(); ++dim) {
      offset +=
          DigitOffset(parts.modes[dim],
                      x[dim] - parts.box.range(static_cast<int>(dim)).begin);
    }
    table[x] = offset;
  }
  return table;
}

inline MapParts PartsOf(const IndexMap& map) {
  return {map.box(),
          {map.modes().begin(), map.modes().end()},
          map.offset_elements()};
}

// The (src element, dst element) pairs of runs, by walking all their digits.
inline std::multimap<int64_t, int64_t> PairsOf(const std::vector<Run>& runs) {
  std::multimap<int64_t, int64_t> pairs;
  for (const Run& run : runs) {
    std::vector<std::pair<int64_t, int64_t>> elements = {
        {run.src_offset, run.dst_offset}};
    for (const RunMode& mode : run.modes) {
      std::vector<std::pair<int64_t, int64_t>> more;
      for (const auto& [src, dst] : elements) {
        for (int64_t i = 0; i < mode.extent; ++i) {
          more.push_back(
              {src + i * mode.src_stride, dst + i * mode.dst_stride});
        }
      }
      elements = std::move(more);
    }
    for (const auto& [src, dst] : elements) pairs.insert({src, dst});
  }
  return pairs;
}

// Random digits whose extents multiply to at most `max_extent`. Strides are
// any of: compact, padded, zero, arbitrary (also overlapping).
inline DimModes AnyModes(int64_t max_extent) {
  DimModes modes;
  int64_t extent = 1;
  int64_t reach = *rc::gen::element<int64_t>(1, 1, 2, 3);
  const int num_digits = *rc::gen::inRange(0, 4);
  for (int k = 0; k < num_digits; ++k) {
    const auto digit = *rc::gen::inRange<int64_t>(1, 7);
    if (extent * digit > max_extent) break;
    extent *= digit;
    const auto stride = *rc::gen::elementOf(
        std::vector<int64_t>{reach, reach, reach, reach + 3, reach * 2, 0,
                             *rc::gen::inRange<int64_t>(0, 40)});
    modes.push_back({digit, stride});
    reach = std::max<int64_t>(reach, digit * stride);
  }
  return modes;
}

inline MapParts AnyMap(int rank, int64_t max_extent, int64_t max_begin) {
  MapParts parts;
  std::vector<tensor::Range> ranges;
  for (int dim = 0; dim < rank; ++dim) {
    DimModes modes = AnyModes(max_extent);
    const auto begin = *rc::gen::inRange<int64_t>(0, max_begin + 1);
    int64_t extent = 1;
    for (const Mode& mode : modes) extent *= mode.extent;
    ranges.push_back({begin, begin + extent});
    parts.modes.push_back(std::move(modes));
  }
  parts.box = tensor::Box::Make(ranges).value();
  parts.offset = *rc::gen::inRange<int64_t>(0, 10);
  return parts;
}

inline tensor::Box AnyBoxNear(const tensor::Box& box) {
  std::vector<tensor::Range> ranges;
  for (const tensor::Range& range : box.ranges()) {
    const auto begin = *rc::gen::inRange<int64_t>(
        range.begin > 0 ? range.begin - 1 : 0, range.end + 1);
    ranges.push_back({begin, *rc::gen::inRange(begin, range.end + 2)});
  }
  return tensor::Box::Make(ranges).value();
}

inline std::string Describe(const MapParts& parts) {
  std::string text = parts.box.ToString() + " :";
  for (const DimModes& modes : parts.modes) text += " " + ToString(modes);
  return text + " + " + std::to_string(parts.offset);
}

inline std::string Describe(const std::vector<Run>& runs) {
  std::string text;
  for (const Run& run : runs) text += run.ToString() + "; ";
  return text;
}

}  // namespace weft::layout::testing

#endif  // WEFT_LAYOUT_TESTING_ORACLE_H_
