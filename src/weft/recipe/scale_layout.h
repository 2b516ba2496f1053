// Where the scales of a stored matrix lie: cut and fused as the matrix is,
// block by block. Private to this room.
#ifndef WEFT_RECIPE_SCALE_LAYOUT_H_
#define WEFT_RECIPE_SCALE_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/layout/index_map.h"
#include "weft/recipe/logical_index.h"
#include "weft/recipe/quant_choice.h"
#include "weft/recipe/stored_pieces.h"
#include "weft/recipe/table_expander.h"
#include "weft/tensor/box.h"

namespace weft::recipe {

// Some scales of the logical matrix number `matrix`; the map's box is one of
// blocks.
struct ScalePiece {
  int32_t matrix = 0;
  layout::IndexMap map;
  std::string_view where;
};

struct ScaleLayout {
  tensor::Shape shape;  // C-contiguous
  std::vector<ScalePiece> pieces;
  std::vector<tensor::Box> zero_fill;
};

// The scales of what `description` holds of `content` when `kept` (rows, or
// entries of a stack) are kept. By choice.form:
//
//   kF32, kE8M0  blocks: [blocks of rows, blocks of columns]; a scale a row:
//                [rows, 1]; a scale a tensor: [parts], one for each part of
//                the concatenation
//   kPacked      the bytes of DeepGEMM's int32 [N, c], c = ceil(blocks of
//                columns / 4), strides (1, align(N, 4)): [c, align(N, 4), 4].
//                Every row of a block repeats its scales; what no block has is
//                zero
//
// behind a stack's leading dimension; a stack of entries of one part has [kept]
// scales a tensor. kInvalidArgument if a cut goes through a block, here or
// where the rows are stored, if parts are turned, dealt out or zeros, and, with
// a scale a tensor, if several parts are rows of one matrix.
absl::StatusOr<ScaleLayout> LayScales(const StoredDescription& description,
                                      const StoredContent& content,
                                      tensor::Range kept,
                                      const QuantChoice& choice,
                                      const LogicalIndex& logical);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_SCALE_LAYOUT_H_
