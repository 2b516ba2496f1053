// Blocks: a converting move is cut into boxes small enough to stay in cache
// (or in a staging slot), so that the source values can be digested where they
// lie while they are converted. Runs have lost the logical coordinates that a
// digest needs; boxes have not.
#ifndef WEFT_EXECUTE_BLOCK_INTERNAL_H_
#define WEFT_EXECUTE_BLOCK_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/execute/far_run_internal.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/box.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"

namespace weft::execute {

// More runs than this from one block of a move: refused.
inline constexpr int64_t kMaxRunsPerBlock = int64_t{1} << 20;

// Disjoint boxes whose union is `box`, each of at most `max_elements` (at
// least 1). They grow first along the dimensions that `map` lays out with the
// smallest strides, so that a block is as contiguous in that memory as
// possible, and are cut at digest tiles where that costs nothing.
std::vector<tensor::Box> CutBox(const tensor::Box& box,
                                const layout::IndexMap& map,
                                int64_t max_elements);

// The far side of `far_map` as it will lie in a staging slot.
struct Image {
  // far_map.box() -> element of the image.
  layout::IndexMap map;
  // far -> image, sorted by far stride; far offset relative to the stored
  // tensor, near offset 0.
  FarRun run;
  int64_t bytes = 0;
};
// `keep_strides`: the image is a copy of the whole span; else it is compact.
absl::StatusOr<Image> MakeImage(const layout::IndexMap& far_map,
                                int64_t item_bytes, bool keep_strides);

// The digest table of one converting move. Thread-safe additions.
class DigestTable {
 public:
  explicit DigestTable(const tensor::Box& box);
  void Clear();
  // Adds `count` values for the tiles from `tile` on, to the right.
  void Add(absl::Span<const int64_t> tile,
           absl::Span<const convert::DigestValue> values);
  absl::Span<const convert::DigestValue> values() const { return values_; }

 private:
  tensor::TileGrid grid_;
  std::mutex mutex_;
  std::vector<convert::DigestValue> values_;
};

// Adds to `table` the digest of the elements of map.box(), which lie at
// `base` + their offset by `map`.
void DigestBlock(const convert::Kernels& kernels,
                 const convert::DigestConstants& constants,
                 const std::byte* base, const layout::IndexMap& map,
                 tensor::DType dtype, DigestTable& table);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_BLOCK_INTERNAL_H_
