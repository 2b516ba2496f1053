// The parts of a stored tensor with everything resolved: boxes of logical
// tensors, and the index maps that put them in their place. Private to this
// room.
#ifndef WEFT_RECIPE_STORED_PIECES_H_
#define WEFT_RECIPE_STORED_PIECES_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/logical_index.h"
#include "weft/recipe/table_expander.h"
#include "weft/tensor/box.h"

namespace weft::recipe {

// A part with everything resolved. `dims[k]` is the dimension of the logical
// tensor that lies along dimension k of the stored one; a dimension that is not
// in it has extent 1 (the index into a stack).
struct StoredPiece {
  int32_t tensor = -1;  // -1: zeros
  tensor::Box box;      // in the logical tensor's coordinates
  absl::InlinedVector<int, 3> dims;
  tensor::Shape shape;  // as it is stored
  int64_t ways = 1;     // as in StoredPart
  int64_t unit = 1;
  std::string_view where;

  bool is_zeros() const { return tensor < 0; }
  int64_t num_rows() const { return shape[0]; }
};

// A description with everything resolved. Not a stack: one entry.
struct StoredContent {
  std::vector<std::vector<StoredPiece>> entries;
  tensor::Shape entry_shape;  // all rows of one entry
  int64_t num_rows() const { return entry_shape[0]; }
};

// kInvalidArgument if a part lies outside of its tensor or does not fit to the
// others.
absl::StatusOr<StoredContent> ResolveContent(
    const StoredDescription& description, const LogicalIndex& logical);

// Rows of a piece, in the order in which they are stored, and where they begin
// in what is kept of its entry.
struct PieceRows {
  const StoredPiece* piece = nullptr;
  tensor::Range rows;
  int64_t stored_row = 0;
};

// What is kept of an entry when `kept` of its rows are.
std::vector<PieceRows> KeptRows(const std::vector<StoredPiece>& pieces,
                                tensor::Range kept);

// The maps of `rows` into a tensor that keeps `shape` of the entry, beginning
// at element `entry_begin`. One map, unless a cut goes through a piece that is
// dealt out in ways: then one for each unit.
absl::StatusOr<std::vector<layout::IndexMap>> MapsOf(const PieceRows& rows,
                                                     const tensor::Shape& shape,
                                                     int64_t entry_begin);

// Maps into one stored tensor, kept apart by logical tensor.
class FragmentList {
 public:
  void Add(int32_t tensor, layout::IndexMap map);
  // Joins what are pieces of one map; appends to `fragments`.
  void Join(tensor::Transform transform,
            std::vector<layout::Fragment>& fragments);

 private:
  std::vector<std::pair<int32_t, std::vector<layout::IndexMap>>> groups_;
  absl::flat_hash_map<int32_t, std::size_t> group_of_;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_STORED_PIECES_H_
