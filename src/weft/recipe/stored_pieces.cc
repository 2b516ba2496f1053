#include "weft/recipe/stored_pieces.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"

namespace weft::recipe {
namespace {

// Takes `range` of the piece's dimension `dim`.
absl::Status Cut(const std::optional<tensor::Range>& range, std::size_t dim,
                 const tensor::TensorSpec& spec, StoredPiece& piece) {
  if (!range) return absl::OkStatus();
  if (dim >= piece.dims.size() ||
      range->end > piece.box.extent(piece.dims[dim])) {
    return FailAt(piece.where,
                  absl::StrCat(dim == 0 ? "rows [" : "columns [", range->begin,
                               ",", range->end, ") exceed shape ",
                               tensor::ShapeToString(spec.shape), " of \"",
                               spec.name, "\""));
  }
  piece.box = piece.box.WithRange(piece.dims[dim], *range);
  return absl::OkStatus();
}

// `index` and `transpose`.
absl::Status Turn(const StoredPart& part, const tensor::TensorSpec& spec,
                  StoredPiece& piece) {
  for (std::size_t dim = part.index ? 1 : 0; dim < spec.shape.size(); ++dim) {
    piece.dims.push_back(static_cast<int>(dim));
  }
  if (part.index) {
    if (spec.shape.size() < 2 || *part.index < 0 ||
        *part.index >= spec.shape[0]) {
      return FailAt(part.where,
                    absl::StrCat("index ", *part.index, " is outside of shape ",
                                 tensor::ShapeToString(spec.shape), " of \"",
                                 spec.name, "\""));
    }
    piece.box = piece.box.WithRange(0, {*part.index, *part.index + 1});
  }
  if (!part.transpose) return absl::OkStatus();
  if (piece.dims.size() != 2) {
    return FailAt(part.where,
                  absl::StrCat("only a matrix can be transposed, not ",
                               tensor::ShapeToString(spec.shape), " of \"",
                               spec.name, "\""));
  }
  std::swap(piece.dims[0], piece.dims[1]);
  return absl::OkStatus();
}

StoredPiece ZerosOf(const StoredPart& part) {
  StoredPiece piece;
  piece.where = part.where;
  piece.shape.push_back(part.zero_rows);
  if (part.zero_columns) piece.shape.push_back(*part.zero_columns);
  return piece;
}

absl::StatusOr<StoredPiece> PieceOf(const StoredPart& part,
                                    const LogicalIndex& logical) {
  if (part.of.empty()) return ZerosOf(part);
  StoredPiece piece;
  piece.where = part.where;
  const auto found = logical.by_name.find(part.of);
  if (found == logical.by_name.end()) {
    return FailAt(part.where, absl::StrCat("the checkpoint has no tensor \"",
                                           part.of, "\""));
  }
  piece.tensor = found->second;
  const tensor::TensorSpec& spec = logical.specs[piece.tensor];
  WEFT_ASSIGN_OR_RETURN(piece.box, tensor::Box::OfShape(spec.shape));
  WEFT_RETURN_IF_ERROR(Turn(part, spec, piece));
  WEFT_RETURN_IF_ERROR(Cut(part.rows, 0, spec, piece));
  WEFT_RETURN_IF_ERROR(Cut(part.columns, 1, spec, piece));
  for (const int dim : piece.dims) {
    piece.shape.push_back(piece.box.extent(dim));
  }
  piece.ways = part.ways;
  piece.unit = part.unit;
  const auto step = base::CheckedMul(part.ways, part.unit);
  if (part.ways < 1 || part.unit < 1 || !step ||
      piece.num_rows() % *step != 0) {
    return FailAt(part.where,
                  absl::StrCat(piece.num_rows(), " rows of \"", spec.name,
                               "\" cannot be dealt in ", part.ways, " ways, ",
                               part.unit, " at a time"));
  }
  return piece;
}

// All but the rows must agree; zeros without columns take the others'.
absl::Status CheckShapes(const StoredDescription& description,
                         const StoredContent& content) {
  const tensor::Shape& want = content.entry_shape;
  for (const std::vector<StoredPiece>& entry : content.entries) {
    for (const StoredPiece& piece : entry) {
      const tensor::Shape& have = piece.shape;
      if (piece.is_zeros() && have.size() == 1) continue;
      if (want.size() != have.size() ||
          !std::equal(want.begin() + 1, want.end(), have.begin() + 1)) {
        return FailAt(
            piece.where,
            absl::StrCat("a part of shape ", tensor::ShapeToString(have),
                         " cannot follow one of shape ",
                         tensor::ShapeToString(want), " in \"",
                         description.name, "\""));
      }
    }
  }
  return absl::OkStatus();
}

// The piece that tells what an entry looks like: one of a logical tensor if
// there is one.
const StoredPiece* PatternOf(const StoredContent& content) {
  const StoredPiece* pattern = nullptr;
  for (const std::vector<StoredPiece>& entry : content.entries) {
    for (const StoredPiece& piece : entry) {
      if (!piece.is_zeros()) return &piece;
      if (pattern == nullptr) pattern = &piece;
    }
  }
  return pattern;
}

layout::DimModes ModesOf(int64_t extent, int64_t stride) {
  return {{extent, stride}};
}

bool AreDisjoint(const std::vector<layout::IndexMap>& maps) {
  // Most are: pieces of one tensor usually follow each other along dimension 0.
  std::vector<tensor::Range> along;
  for (const layout::IndexMap& map : maps) {
    if (map.box().empty() || map.box().rank() == 0) return false;
    along.push_back(map.box().range(0));
  }
  std::sort(along.begin(), along.end(),
            [](const tensor::Range& a, const tensor::Range& b) {
              return a.begin < b.begin;
            });
  bool ordered = true;
  for (std::size_t i = 1; i < along.size(); ++i) {
    ordered = ordered && along[i - 1].end <= along[i].begin;
  }
  if (ordered) return true;
  for (std::size_t i = 0; i < maps.size(); ++i) {
    for (std::size_t j = i + 1; j < maps.size(); ++j) {
      if (!Intersect(maps[i].box(), maps[j].box()).empty()) return false;
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<StoredContent> ResolveContent(
    const StoredDescription& description, const LogicalIndex& logical) {
  StoredContent content;
  std::optional<int64_t> rows_of_first;
  for (const std::vector<StoredPart>& parts : description.entries) {
    std::vector<StoredPiece>& entry = content.entries.emplace_back();
    entry.reserve(parts.size());
    int64_t num_rows = 0;
    for (const StoredPart& part : parts) {
      WEFT_ASSIGN_OR_RETURN(entry.emplace_back(), PieceOf(part, logical));
      const auto sum = base::CheckedAdd(num_rows, entry.back().num_rows());
      if (!sum) return FailAt(part.where, "the number of rows overflows");
      num_rows = *sum;
    }
    if (!rows_of_first) rows_of_first = num_rows;
    if (num_rows != *rows_of_first) {
      return FailAt(
          description.where,
          absl::StrCat("an entry of ", num_rows, " rows cannot follow one of ",
                       *rows_of_first, " in \"", description.name, "\""));
    }
  }
  const StoredPiece* const pattern = PatternOf(content);
  if (pattern == nullptr) {
    return FailAt(description.where,
                  absl::StrCat("\"", description.name, "\" has no part"));
  }
  content.entry_shape = pattern->shape;
  WEFT_RETURN_IF_ERROR(CheckShapes(description, content));
  content.entry_shape[0] = *rows_of_first;
  return content;
}

std::vector<PieceRows> KeptRows(const std::vector<StoredPiece>& pieces,
                                tensor::Range kept) {
  std::vector<PieceRows> result;
  int64_t piece_begin = 0;  // row of the concatenation
  for (const StoredPiece& piece : pieces) {
    const int64_t begin = std::max(piece_begin, kept.begin);
    const int64_t end = std::min(piece_begin + piece.num_rows(), kept.end);
    if (begin < end) {
      result.push_back({&piece,
                        {begin - piece_begin, end - piece_begin},
                        begin - kept.begin});
    }
    piece_begin += piece.num_rows();
  }
  return result;
}

absl::StatusOr<std::vector<layout::IndexMap>> MapsOf(const PieceRows& rows,
                                                     const tensor::Shape& shape,
                                                     int64_t entry_begin) {
  const StoredPiece& piece = *rows.piece;
  std::vector<layout::DimModes> modes(piece.box.rank());
  int64_t stride = 1;  // of what is stored; its size was checked
  for (std::size_t k = piece.dims.size(); k-- > 0; stride *= shape[k]) {
    if (k == 0) break;
    modes[piece.dims[k]] = ModesOf(piece.shape[k], stride);
  }
  const int64_t row_stride = stride;
  const int rows_dim = piece.dims[0];
  const int64_t first = piece.box.range(rows_dim).begin;
  std::vector<layout::IndexMap> maps;
  const auto add = [&](tensor::Range logical_rows, layout::DimModes row_modes,
                       int64_t stored_row) -> absl::Status {
    modes[rows_dim] = std::move(row_modes);
    WEFT_ASSIGN_OR_RETURN(
        maps.emplace_back(),
        layout::IndexMap::Make(
            piece.box.WithRange(rows_dim, {first + logical_rows.begin,
                                           first + logical_rows.end}),
            modes, entry_begin + stored_row * row_stride));
    return absl::OkStatus();
  };
  if (piece.ways == 1) {
    WEFT_RETURN_IF_ERROR(add(rows.rows, ModesOf(rows.rows.extent(), row_stride),
                             rows.stored_row));
    return maps;
  }
  const int64_t each = piece.num_rows() / (piece.ways * piece.unit);
  if (rows.rows.extent() == piece.num_rows()) {
    const int64_t unit_stride = piece.unit * row_stride;
    WEFT_RETURN_IF_ERROR(add(rows.rows,
                             {{piece.unit, row_stride},
                              {piece.ways, each * unit_stride},
                              {each, unit_stride}},
                             rows.stored_row));
    return maps;
  }
  for (int64_t row = rows.rows.begin; row < rows.rows.end;) {
    const int64_t block = row / piece.unit;  // as stored
    const int64_t end = std::min(rows.rows.end, (block + 1) * piece.unit);
    const int64_t way = block / each, x = block % each;
    const int64_t logical_row =
        (x * piece.ways + way) * piece.unit + row % piece.unit;
    WEFT_RETURN_IF_ERROR(add({logical_row, logical_row + end - row},
                             ModesOf(end - row, row_stride),
                             rows.stored_row + row - rows.rows.begin));
    row = end;
  }
  return maps;
}

void FragmentList::Add(int32_t tensor, layout::IndexMap map) {
  const auto [at, is_new] = group_of_.emplace(tensor, groups_.size());
  if (is_new) groups_.push_back({tensor, {}});
  groups_[at->second].second.push_back(std::move(map));
}

void FragmentList::Join(tensor::Transform transform,
                        std::vector<layout::Fragment>& fragments) {
  for (auto& [tensor, maps] : groups_) {
    // A table may store the same rows twice; those cannot be joined.
    if (maps.size() > 1 && AreDisjoint(maps)) {
      maps = layout::JoinMaps(std::move(maps));
    }
    for (layout::IndexMap& map : maps) {
      fragments.push_back({tensor, std::move(map), transform});
    }
  }
  groups_.clear();
  group_of_.clear();
}

}  // namespace weft::recipe
