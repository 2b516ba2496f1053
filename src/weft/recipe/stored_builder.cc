#include "weft/recipe/stored_builder.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"

namespace weft::recipe {

// A part with everything resolved. `box` is in the logical tensor's
// coordinates; for zeros only `num_rows` counts.
struct StoredBuilder::Piece {
  int32_t tensor = -1;  // -1: zeros
  tensor::Box box;
  int64_t num_rows = 0;
  std::string_view where;

  bool is_zeros() const { return tensor < 0; }
};

namespace {

bool AreDisjoint(const std::vector<layout::IndexMap>& maps) {
  for (std::size_t i = 0; i < maps.size(); ++i) {
    for (std::size_t j = i + 1; j < maps.size(); ++j) {
      if (!Intersect(maps[i].box(), maps[j].box()).empty()) return false;
    }
  }
  return true;
}

// Maps into one stored tensor, kept apart by logical tensor.
class FragmentList {
 public:
  void Add(int32_t tensor, layout::IndexMap map) {
    for (auto& [known, maps] : groups_) {
      if (known != tensor) continue;
      maps.push_back(std::move(map));
      return;
    }
    groups_.push_back({tensor, {std::move(map)}});
  }

  std::vector<layout::Fragment> Join() {
    std::vector<layout::Fragment> fragments;
    for (auto& [tensor, maps] : groups_) {
      // A table may store the same rows twice; those cannot be joined.
      if (AreDisjoint(maps)) maps = layout::JoinMaps(std::move(maps));
      for (layout::IndexMap& map : maps) {
        fragments.push_back({tensor, std::move(map)});
      }
    }
    return fragments;
  }

 private:
  std::vector<std::pair<int32_t, std::vector<layout::IndexMap>>> groups_;
};

}  // namespace

StoredBuilder::StoredBuilder(std::vector<tensor::TensorSpec> logical,
                             std::optional<tensor::DType> dtype)
    : logical_(std::move(logical)), dtype_(dtype) {
  for (std::size_t i = 0; i < logical_.size(); ++i) {
    index_by_name_.emplace(logical_[i].name, static_cast<int32_t>(i));
  }
}

absl::StatusOr<int32_t> StoredBuilder::IndexOf(const std::string& name,
                                               std::string_view where) const {
  const auto found = index_by_name_.find(name);
  if (found != index_by_name_.end()) return found->second;
  return FailAt(where,
                absl::StrCat("the checkpoint has no tensor \"", name, "\""));
}

absl::StatusOr<StoredBuilder::Piece> StoredBuilder::PieceOf(
    const StoredPart& part) const {
  Piece piece;
  piece.where = part.where;
  if (part.of.empty()) {
    piece.num_rows = part.zero_rows;
    return piece;
  }
  WEFT_ASSIGN_OR_RETURN(piece.tensor, IndexOf(part.of, part.where));
  const tensor::TensorSpec& spec = logical_[piece.tensor];
  WEFT_ASSIGN_OR_RETURN(piece.box, tensor::Box::OfShape(spec.shape));
  const auto cut =
      [&](int dim, const std::optional<tensor::Range>& range) -> absl::Status {
    if (!range) return absl::OkStatus();
    if (dim >= piece.box.rank() || range->end > piece.box.extent(dim)) {
      return FailAt(part.where, absl::StrCat(dim == 0 ? "rows [" : "columns [",
                                             range->begin, ",", range->end,
                                             ") exceed shape ",
                                             tensor::ShapeToString(spec.shape),
                                             " of \"", spec.name, "\""));
    }
    piece.box = piece.box.WithRange(dim, *range);
    return absl::OkStatus();
  };
  WEFT_RETURN_IF_ERROR(cut(0, part.rows));
  WEFT_RETURN_IF_ERROR(cut(1, part.columns));
  piece.num_rows = piece.box.extent(0);
  return piece;
}

absl::StatusOr<std::vector<StoredBuilder::Piece>> StoredBuilder::PiecesOf(
    const StoredDescription& description) const {
  std::vector<Piece> pieces;
  const Piece* first = nullptr;
  for (const StoredPart& part : description.parts) {
    WEFT_ASSIGN_OR_RETURN(pieces.emplace_back(), PieceOf(part));
  }
  for (const Piece& piece : pieces) {
    if (piece.is_zeros()) continue;
    if (first == nullptr) first = &piece;
    const tensor::Shape want = first->box.shape();
    const tensor::Shape have = piece.box.shape();
    if (want.size() != have.size() ||
        !std::equal(want.begin() + 1, want.end(), have.begin() + 1)) {
      return FailAt(
          piece.where,
          absl::StrCat("a part of shape ", tensor::ShapeToString(have),
                       " cannot follow one of shape ",
                       tensor::ShapeToString(want), " in \"", description.name,
                       "\""));
    }
  }
  if (first == nullptr) {
    return FailAt(description.where, absl::StrCat("\"", description.name,
                                                  "\" has no logical tensor"));
  }
  return pieces;
}

absl::StatusOr<tensor::DType> StoredBuilder::DTypeOf(
    const StoredDescription& description,
    const std::vector<Piece>& pieces) const {
  if (dtype_) return *dtype_;
  const tensor::TensorSpec* first = nullptr;
  for (const Piece& piece : pieces) {
    if (piece.is_zeros()) continue;
    const tensor::TensorSpec& spec = logical_[piece.tensor];
    if (first == nullptr) first = &spec;
    if (spec.dtype == first->dtype) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "parts of \"", description.name, "\" differ in dtype: \"", first->name,
        "\" is ", std::string(tensor::DTypeName(first->dtype)), ", \"",
        spec.name, "\" is ", std::string(tensor::DTypeName(spec.dtype)),
        "; give dtype=bf16, f16 or f32"));
  }
  return first->dtype;  // PiecesOf saw to it that there is one
}

absl::Status StoredBuilder::AddDescribed(const StoredDescription& description) {
  WEFT_ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PiecesOf(description));
  int64_t num_rows = 0;
  tensor::Shape shape;
  for (const Piece& piece : pieces) {
    const auto sum = base::CheckedAdd(num_rows, piece.num_rows);
    if (!sum) return FailAt(piece.where, "the number of rows overflows");
    num_rows = *sum;
    if (shape.empty() && !piece.is_zeros()) shape = piece.box.shape();
  }
  const tensor::Range kept =
      description.cut.value_or(tensor::Range{0, num_rows});
  if (kept.end > num_rows) {
    return FailAt(
        description.where,
        absl::StrCat("cut [", kept.begin, ",", kept.end, ") exceeds the ",
                     num_rows, " rows of \"", description.name, "\""));
  }
  shape[0] = kept.extent();

  layout::StoredTensor stored;
  stored.name = description.name;
  stored.shape = shape;
  WEFT_ASSIGN_OR_RETURN(stored.dtype, DTypeOf(description, pieces));
  WEFT_ASSIGN_OR_RETURN(const tensor::Box whole, tensor::Box::OfShape(shape));
  FragmentList fragments;
  int64_t piece_begin = 0;  // row of the concatenation
  for (const Piece& piece : pieces) {
    const int64_t begin = std::max(piece_begin, kept.begin);
    const int64_t end = std::min(piece_begin + piece.num_rows, kept.end);
    const int64_t skipped = begin - piece_begin;
    piece_begin += piece.num_rows;
    if (begin >= end || whole.empty()) continue;
    const int64_t stored_row = begin - kept.begin;
    if (piece.is_zeros()) {
      stored.zero_fill.push_back(
          whole.WithRange(0, {stored_row, stored_row + end - begin}));
      continue;
    }
    const int64_t logical_row = piece.box.range(0).begin + skipped;
    tensor::Shape origin(shape.size(), 0);
    origin[0] = stored_row;
    WEFT_ASSIGN_OR_RETURN(
        layout::IndexMap map,
        layout::IndexMap::RowMajor(
            piece.box.WithRange(0, {logical_row, logical_row + end - begin}),
            shape, origin));
    fragments.Add(piece.tensor, std::move(map));
  }
  stored.fragments = fragments.Join();
  stored_.push_back(std::move(stored));
  return absl::OkStatus();
}

absl::Status StoredBuilder::AddBox(const std::string& name,
                                   const tensor::Box& box) {
  WEFT_ASSIGN_OR_RETURN(const int32_t index, IndexOf(name, "layout"));
  layout::StoredTensor stored;
  stored.name = name;
  stored.dtype = dtype_.value_or(logical_[index].dtype);
  stored.shape = box.shape();
  if (!box.empty()) {
    const tensor::Shape origin(stored.shape.size(), 0);
    WEFT_ASSIGN_OR_RETURN(layout::IndexMap map, layout::IndexMap::RowMajor(
                                                    box, stored.shape, origin));
    stored.fragments.push_back({index, std::move(map)});
  }
  stored_.push_back(std::move(stored));
  return absl::OkStatus();
}

StoredBuilder::Result StoredBuilder::Take() {
  std::vector<int32_t> new_index(logical_.size(), -1);
  for (const layout::StoredTensor& stored : stored_) {
    for (const layout::Fragment& fragment : stored.fragments) {
      new_index[fragment.tensor] = 0;
    }
  }
  Result result;
  for (std::size_t i = 0; i < logical_.size(); ++i) {
    if (new_index[i] < 0) continue;
    new_index[i] = static_cast<int32_t>(result.tensors.size());
    result.tensors.push_back(std::move(logical_[i]));
  }
  for (layout::StoredTensor& stored : stored_) {
    for (layout::Fragment& fragment : stored.fragments) {
      fragment.tensor = new_index[fragment.tensor];
    }
  }
  result.stored = std::move(stored_);
  logical_.clear();
  stored_.clear();
  index_by_name_.clear();
  return result;
}

}  // namespace weft::recipe
