// The digest table of an index map, element by element from the formula of
// convert/digest.h. For the tests of verify; shares nothing with what it checks
// but the constants and IndexMap::OffsetOf.
#ifndef WEFT_VERIFY_TESTING_ORACLE_H_
#define WEFT_VERIFY_TESTING_ORACLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "weft/convert/digest.h"
#include "weft/layout/index_map.h"

namespace weft::verify::testing {

// Calls visit(x) for each element x of `box`, in row-major order.
template <typename Visit>
void ForEachElement(const tensor::Box& box, Visit visit) {
  if (box.empty()) return;
  std::vector<int64_t> x;
  for (const tensor::Range& range : box.ranges()) x.push_back(range.begin);
  while (true) {
    visit(x);
    size_t dim = x.size();
    while (dim > 0 &&
           ++x[dim - 1] == box.range(static_cast<int>(dim) - 1).end) {
      --dim;
      x[dim] = box.range(static_cast<int>(dim)).begin;
    }
    if (dim == 0) return;
  }
}

// Position of x's tile among those that meet `box`, row-major.
inline size_t TileIndexOf(const tensor::Box& box,
                          const std::vector<int64_t>& x) {
  int64_t index = 0;
  const int rank = box.rank();
  for (int dim = 0; dim < rank; ++dim) {
    const int64_t tile = dim + 2 >= rank ? 64 : 1;
    const int64_t first = box.range(dim).begin / tile;
    const int64_t last = (box.range(dim).end - 1) / tile;
    index =
        index * (last - first + 1) + x[static_cast<size_t>(dim)] / tile - first;
  }
  return static_cast<size_t>(index);
}

// Number of tiles that meet `box`.
inline size_t NumTiles(const tensor::Box& box) {
  if (box.empty()) return 0;
  std::vector<int64_t> last;
  for (const tensor::Range& range : box.ranges()) last.push_back(range.end - 1);
  return TileIndexOf(box, last) + 1;
}

// Adds the digests of `map`'s elements to the table of `table_box`.
inline void AddTable(const convert::DigestConstants& constants,
                     const layout::IndexMap& map, const std::byte* stored_base,
                     int item_bytes, const tensor::Box& table_box,
                     std::vector<convert::DigestValue>& table) {
  ForEachElement(map.box(), [&](const std::vector<int64_t>& x) {
    const size_t rank = x.size();
    const auto row = static_cast<size_t>(rank >= 2 ? x[rank - 2] % 64 : 0);
    const auto col = static_cast<size_t>(rank >= 1 ? x[rank - 1] % 64 : 0);
    const std::byte* element = stored_base + map.OffsetOf(x) * item_bytes;
    for (size_t i = 0; i < static_cast<size_t>(item_bytes); ++i) {
      const size_t byte = col * static_cast<size_t>(item_bytes) + i;
      const uint64_t v = static_cast<uint64_t>(element[i]) << (8 * (byte % 4));
      for (size_t s = 0; s < 2; ++s) {
        table[TileIndexOf(table_box, x)].sum[s] +=
            constants.row[s][row] * constants.col[s][byte / 4] * v;
      }
    }
  });
}

}  // namespace weft::verify::testing

#endif  // WEFT_VERIFY_TESTING_ORACLE_H_
