#include "weft/recipe/scale_layout.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/tensor/scale_scheme.h"

namespace weft::recipe {
namespace {

using layout::DimModes;
using layout::IndexMap;
using tensor::Box;
using tensor::Range;

// DeepGEMM packs four exponents into an int32 and aligns columns of int32 to
// 16 bytes, for TMA.
constexpr int64_t kPackedScales = 4;
constexpr int64_t kPackedRowAlign = 4;

// `block` 0: all of the dimension.
std::optional<Range> BlocksOfRange(Range range, int64_t block, int64_t extent) {
  if (block == 0) return Range{0, 1};
  const bool whole = range.begin % block == 0 &&
                     (range.end % block == 0 || range.end == extent);
  if (!whole) return std::nullopt;
  return Range{range.begin / block, (range.end + block - 1) / block};
}

class Layer {
 public:
  Layer(const StoredDescription& description, const StoredContent& content,
        Range kept, const QuantChoice& choice, const LogicalIndex& logical)
      : description_(description),
        content_(content),
        kept_(kept),
        choice_(choice),
        logical_(logical) {}

  absl::StatusOr<ScaleLayout> Run() {
    WEFT_RETURN_IF_ERROR(SetShape());
    WEFT_ASSIGN_OR_RETURN(const Box whole, Box::OfShape(result_.shape));
    if (whole.empty()) return std::move(result_);
    const int64_t entries = description_.is_stack ? kept_.extent() : 1;
    for (int64_t i = 0; i < entries; ++i) {
      const std::vector<StoredPiece>& pieces =
          content_.entries[description_.is_stack ? kept_.begin + i : 0];
      const std::vector<PieceRows> rows = KeptRows(pieces, RowsKept());
      for (size_t part = 0; part < rows.size(); ++part) {
        WEFT_RETURN_IF_ERROR(AddPart(rows, part, i));
      }
    }
    return std::move(result_);
  }

 private:
  Range RowsKept() const {
    return description_.is_stack ? Range{0, content_.num_rows()} : kept_;
  }

  // Sets the shape of all, and `entry_`: that of one entry, or of all if there
  // is no stack.
  absl::Status SetShape() {
    tensor::Shape matrix = content_.entry_shape;
    matrix[0] = RowsKept().extent();
    if (matrix.size() != 2) {
      return FailAt(description_.where,
                    absl::StrCat("\"", description_.name,
                                 "\" is no matrix and has no scales"));
    }
    const bool is_packed = choice_.form == ScaleForm::kPacked;
    if (choice_.is_per_tensor()) {
      const auto parts = static_cast<int64_t>(
          KeptRows(content_.entries[0], RowsKept()).size());
      entry_ = {parts, 1};
      result_.shape = {parts};
      if (description_.is_stack && parts == 1) result_.shape.clear();
    } else {
      WEFT_ASSIGN_OR_RETURN(entry_, tensor::ScaleShape(choice_.scheme, matrix));
      if (is_packed) {
        packed_rows_ = matrix[0];
        entry_ = {(entry_[1] + kPackedScales - 1) / kPackedScales,
                  base::AlignUp(matrix[0], kPackedRowAlign), kPackedScales};
      }
      result_.shape = entry_;
    }
    if (description_.is_stack) {
      result_.shape.insert(result_.shape.begin(), kept_.extent());
    }
    if (!is_packed) return absl::OkStatus();
    WEFT_ASSIGN_OR_RETURN(const tensor::Shape blocks,
                          tensor::ScaleShape(choice_.scheme, matrix));
    return AddPackedZeros(blocks[1]);
  }

  // Rows that only align, and bytes of the last int32 that no block has.
  absl::Status AddPackedZeros(int64_t column_blocks) {
    WEFT_ASSIGN_OR_RETURN(const Box whole, Box::OfShape(result_.shape));
    const int rows_dim = whole.rank() - 2;
    if (whole.empty()) return absl::OkStatus();
    if (packed_rows_ < entry_[1]) {
      result_.zero_fill.push_back(
          whole.WithRange(rows_dim, {packed_rows_, entry_[1]}));
    }
    const int64_t rest = column_blocks % kPackedScales;
    if (rest != 0) {
      result_.zero_fill.push_back(
          whole.WithRange(rows_dim, {0, packed_rows_})
              .WithRange(rows_dim - 1, {entry_[0] - 1, entry_[0]})
              .WithRange(rows_dim + 1, {rest, kPackedScales}));
    }
    return absl::OkStatus();
  }

  absl::Status AddPart(const std::vector<PieceRows>& rows, size_t part,
                       int64_t entry) {
    const StoredPiece& piece = *rows[part].piece;
    if (piece.is_zeros()) {
      return FailAt(piece.where,
                    absl::StrCat(choice_.words, ": zeros have no scales"));
    }
    WEFT_ASSIGN_OR_RETURN(const Box blocks, BlocksOf(rows[part]));
    // A stack of matrices lies as one tall matrix does.
    const int64_t entry_rows = entry * entry_[0];
    if (choice_.form == ScaleForm::kPacked) {
      return AddPacked(rows[part], blocks,
                       entry_rows * entry_[1] * kPackedScales);
    }
    int64_t at = static_cast<int64_t>(part);
    if (choice_.is_per_tensor()) {
      WEFT_RETURN_IF_ERROR(CheckSolePart(rows, part));
    } else {
      at = rows[part].stored_row / choice_.scheme.block_rows;
    }
    const tensor::Shape tall{entry_rows + entry_[0], entry_[1]};
    const tensor::Shape origin{entry_rows + at, 0};
    WEFT_ASSIGN_OR_RETURN(IndexMap map,
                          IndexMap::RowMajor(blocks, tall, origin));
    result_.pieces.push_back({piece.tensor, std::move(map), piece.where});
    return absl::OkStatus();
  }

  // With a scale a tensor a part is a matrix of its own: what is fused in the
  // checkpoint has one scale there, and engines do not agree on what becomes of
  // it.
  absl::Status CheckSolePart(const std::vector<PieceRows>& rows,
                             size_t part) const {
    const StoredPiece& piece = *rows[part].piece;
    for (size_t other = 0; other < part; ++other) {
      if (rows[other].piece->tensor != piece.tensor) continue;
      // What is FP8 already cannot be held by another scheme.
      const bool has_own = logical_.own_scales.contains(piece.tensor);
      return FailAt(piece.where,
                    absl::StrCat(choice_.words, ": \"", description_.name,
                                 "\" takes several parts from \"",
                                 logical_.specs[piece.tensor].name,
                                 "\", which has one scale; give ",
                                 has_own ? "a checkpoint with a scale a row"
                                         : "quant=fp8-channel or fp8-block"));
    }
    return absl::OkStatus();
  }

  // The blocks of `rows` as a box of the scales.
  absl::StatusOr<Box> BlocksOf(const PieceRows& rows) const {
    const StoredPiece& piece = *rows.piece;
    const tensor::TensorSpec& spec = logical_.specs[piece.tensor];
    const tensor::ScaleScheme& scheme = choice_.scheme;
    const bool is_plain = piece.ways == 1 && piece.box.rank() == 2 &&
                          piece.dims[0] == 0 && piece.dims[1] == 1;
    if (!is_plain) {
      return FailAt(piece.where,
                    absl::StrCat("\"", spec.name,
                                 "\" is turned or dealt out, so it cannot be "
                                 "held quantised"));
    }
    const int64_t first = piece.box.range(0).begin;
    const Range range{first + rows.rows.begin, first + rows.rows.end};
    const auto row_blocks =
        BlocksOfRange(range, scheme.block_rows, spec.shape[0]);
    const bool is_aligned =
        scheme.block_rows == 0 || rows.stored_row % scheme.block_rows == 0;
    if (!row_blocks || !is_aligned) {
      return FailAt(
          piece.where,
          absl::StrCat(choice_.words, ": rows [", range.begin, ",", range.end,
                       ") of \"", spec.name, "\" at stored row ",
                       rows.stored_row, " do not begin and end with blocks of ",
                       scheme.block_rows));
    }
    const Range columns = piece.box.range(1);
    const auto column_blocks =
        BlocksOfRange(columns, scheme.block_cols, spec.shape[1]);
    if (!column_blocks) {
      return FailAt(piece.where,
                    absl::StrCat(choice_.words, ": columns [", columns.begin,
                                 ",", columns.end, ") of \"", spec.name,
                                 "\" do not begin and end with blocks of ",
                                 scheme.block_cols));
    }
    const Range ranges[] = {*row_blocks, *column_blocks};
    return Box::Make(ranges);
  }

  // A map for each row of a block: all of them hold the block's scales. Whole
  // int32 first, then the blocks of columns that are left.
  absl::Status AddPacked(const PieceRows& rows, const Box& blocks,
                         int64_t entry_begin) {
    const int64_t block = choice_.scheme.block_rows;
    const int64_t column_step = entry_[1] * kPackedScales;
    const int64_t columns = blocks.extent(1);
    const int64_t rest = columns % kPackedScales;
    const Range all = blocks.range(1);
    const int64_t num_rows = rows.rows.extent();
    for (int64_t j = 0; j < std::min(block, num_rows); ++j) {
      const int64_t with_row = (num_rows - j + block - 1) / block;
      const Box high = blocks.WithRange(
          0, {blocks.range(0).begin, blocks.range(0).begin + with_row});
      const DimModes row_modes{{with_row, block * kPackedScales}};
      const int64_t offset =
          entry_begin + (rows.stored_row + j) * kPackedScales;
      if (columns > rest) {
        WEFT_RETURN_IF_ERROR(AddMap(
            rows, high.WithRange(1, {all.begin, all.end - rest}),
            {row_modes,
             {{kPackedScales, 1}, {columns / kPackedScales, column_step}}},
            offset));
      }
      if (rest > 0) {
        WEFT_RETURN_IF_ERROR(
            AddMap(rows, high.WithRange(1, {all.end - rest, all.end}),
                   {row_modes, {{rest, 1}}},
                   offset + columns / kPackedScales * column_step));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddMap(const PieceRows& rows, const Box& box,
                      std::vector<DimModes> modes, int64_t offset) {
    WEFT_ASSIGN_OR_RETURN(IndexMap map,
                          IndexMap::Make(box, std::move(modes), offset));
    result_.pieces.push_back(
        {rows.piece->tensor, std::move(map), rows.piece->where});
    return absl::OkStatus();
  }

  const StoredDescription& description_;
  const StoredContent& content_;
  const Range kept_;
  const QuantChoice& choice_;
  const LogicalIndex& logical_;
  tensor::Shape entry_;
  int64_t packed_rows_ = 0;  // of an entry, without those that only align
  ScaleLayout result_;
};

}  // namespace

absl::StatusOr<ScaleLayout> LayScales(const StoredDescription& description,
                                      const StoredContent& content,
                                      tensor::Range kept,
                                      const QuantChoice& choice,
                                      const LogicalIndex& logical) {
  return Layer(description, content, kept, choice, logical).Run();
}

}  // namespace weft::recipe
