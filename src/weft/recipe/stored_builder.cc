#include "weft/recipe/stored_builder.h"

#include <algorithm>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/layout/mesh.h"

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

// A description with everything resolved. Not a stack: one entry.
struct StoredBuilder::Content {
  std::vector<std::vector<Piece>> entries;
  int64_t num_rows = 0;       // of each entry
  tensor::Shape entry_shape;  // num_rows and the other dimensions
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

// A box of one entry's coordinates in those of the stored tensor.
absl::StatusOr<tensor::Box> ZeroBox(const tensor::Box& rows,
                                    std::optional<int64_t> entry) {
  if (!entry) return rows;
  absl::InlinedVector<tensor::Range, 4> ranges{{*entry, *entry + 1}};
  ranges.insert(ranges.end(), rows.ranges().begin(), rows.ranges().end());
  return tensor::Box::Make(ranges);
}

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

absl::Status StoredBuilder::CheckPieces(const StoredDescription& description,
                                        const Content& content) const {
  const Piece* first = nullptr;
  for (const std::vector<Piece>& entry : content.entries) {
    for (const Piece& piece : entry) {
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
                         tensor::ShapeToString(want), " in \"",
                         description.name, "\""));
      }
    }
  }
  if (first != nullptr) return absl::OkStatus();
  return FailAt(description.where, absl::StrCat("\"", description.name,
                                                "\" has no logical tensor"));
}

absl::StatusOr<StoredBuilder::Content> StoredBuilder::ContentOf(
    const StoredDescription& description) const {
  Content content;
  for (const std::vector<StoredPart>& parts : description.entries) {
    std::vector<Piece>& entry = content.entries.emplace_back();
    int64_t num_rows = 0;
    for (const StoredPart& part : parts) {
      WEFT_ASSIGN_OR_RETURN(entry.emplace_back(), PieceOf(part));
      const Piece& piece = entry.back();
      const auto sum = base::CheckedAdd(num_rows, piece.num_rows);
      if (!sum) return FailAt(piece.where, "the number of rows overflows");
      num_rows = *sum;
      if (content.entry_shape.empty() && !piece.is_zeros()) {
        content.entry_shape = piece.box.shape();
      }
    }
    if (content.entries.size() == 1) content.num_rows = num_rows;
    if (num_rows != content.num_rows) {
      return FailAt(
          description.where,
          absl::StrCat("an entry of ", num_rows, " rows cannot follow one of ",
                       content.num_rows, " in \"", description.name, "\""));
    }
  }
  WEFT_RETURN_IF_ERROR(CheckPieces(description, content));
  content.entry_shape[0] = content.num_rows;
  return content;
}

absl::StatusOr<tensor::DType> StoredBuilder::DTypeOf(
    const StoredDescription& description, const Content& content) const {
  if (dtype_) return *dtype_;
  const tensor::TensorSpec* first = nullptr;
  for (const std::vector<Piece>& entry : content.entries) {
    for (const Piece& piece : entry) {
      if (piece.is_zeros()) continue;
      const tensor::TensorSpec& spec = logical_[piece.tensor];
      if (first == nullptr) first = &spec;
      if (spec.dtype == first->dtype) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "parts of \"", description.name, "\" differ in dtype: \"",
          first->name, "\" is ", std::string(tensor::DTypeName(first->dtype)),
          ", \"", spec.name, "\" is ",
          std::string(tensor::DTypeName(spec.dtype)),
          "; give dtype=bf16, f16 or f32"));
    }
  }
  return first->dtype;  // CheckPieces saw to it that there is one
}

absl::Status StoredBuilder::AddDescribed(const StoredDescription& description) {
  WEFT_ASSIGN_OR_RETURN(const Content content, ContentOf(description));
  if (description.is_stack) {
    return Add(description, content, {0, description.num_entries});
  }
  const tensor::Range kept =
      description.cut.value_or(tensor::Range{0, content.num_rows});
  if (kept.end > content.num_rows) {
    return FailAt(
        description.where,
        absl::StrCat("cut [", kept.begin, ",", kept.end, ") exceeds the ",
                     content.num_rows, " rows of \"", description.name, "\""));
  }
  return Add(description, content, kept);
}

absl::Status StoredBuilder::AddChunk(const StoredDescription& description,
                                     int64_t shard, int64_t shard_rank) {
  WEFT_ASSIGN_OR_RETURN(const Content content, ContentOf(description));
  const int64_t whole =
      description.is_stack ? description.num_entries : content.num_rows;
  return Add(description, content,
             layout::ChunkSplit(whole, shard, shard_rank));
}

// Rows `kept` of the concatenation of `pieces`, as a tensor of `shape`: all of
// `stored`, or its entry number `entry` along the leading dimension.
absl::Status StoredBuilder::AddRows(const std::vector<Piece>& pieces,
                                    tensor::Range kept,
                                    const tensor::Shape& shape,
                                    std::optional<int64_t> entry,
                                    layout::StoredTensor& stored) {
  WEFT_ASSIGN_OR_RETURN(const tensor::Box whole, tensor::Box::OfShape(shape));
  // Cannot overflow: the box of the whole stored tensor was made.
  const int64_t entry_begin = entry.value_or(0) * whole.num_elements();
  FragmentList fragments;
  int64_t piece_begin = 0;  // row of the concatenation
  for (const Piece& piece : pieces) {
    const int64_t begin = std::max(piece_begin, kept.begin);
    const int64_t end = std::min(piece_begin + piece.num_rows, kept.end);
    const int64_t skipped = begin - piece_begin;
    piece_begin += piece.num_rows;
    if (begin >= end) continue;
    const int64_t stored_row = begin - kept.begin;
    const tensor::Range rows{stored_row, stored_row + end - begin};
    if (piece.is_zeros()) {
      WEFT_ASSIGN_OR_RETURN(stored.zero_fill.emplace_back(),
                            ZeroBox(whole.WithRange(0, rows), entry));
      continue;
    }
    const int64_t logical_row = piece.box.range(0).begin + skipped;
    tensor::Shape origin(shape.size(), 0);
    origin[0] = stored_row;
    WEFT_ASSIGN_OR_RETURN(
        const layout::IndexMap map,
        layout::IndexMap::RowMajor(
            piece.box.WithRange(0, {logical_row, logical_row + end - begin}),
            shape, origin));
    WEFT_ASSIGN_OR_RETURN(
        layout::IndexMap placed,
        layout::IndexMap::Make(map.box(),
                               {map.modes().begin(), map.modes().end()},
                               map.offset_elements() + entry_begin));
    fragments.Add(piece.tensor, std::move(placed));
  }
  for (layout::Fragment& fragment : fragments.Join()) {
    stored.fragments.push_back(std::move(fragment));
  }
  return absl::OkStatus();
}

// `kept`: along dimension 0 of the stored tensor.
absl::Status StoredBuilder::Add(const StoredDescription& description,
                                const Content& content, tensor::Range kept) {
  layout::StoredTensor stored;
  stored.name = description.name;
  WEFT_ASSIGN_OR_RETURN(stored.dtype, DTypeOf(description, content));
  tensor::Shape row_shape = content.entry_shape;  // of what one entry keeps
  if (description.is_stack) {
    stored.shape.push_back(kept.extent());
    stored.shape.insert(stored.shape.end(), row_shape.begin(), row_shape.end());
  } else {
    row_shape[0] = kept.extent();
    stored.shape = row_shape;
  }
  WEFT_ASSIGN_OR_RETURN(const tensor::Box whole,
                        tensor::Box::OfShape(stored.shape));
  if (whole.empty()) {
    stored_.push_back(std::move(stored));
    return absl::OkStatus();
  }
  if (!description.is_stack) {
    WEFT_RETURN_IF_ERROR(
        AddRows(content.entries[0], kept, row_shape, std::nullopt, stored));
  } else {
    for (int64_t i = kept.begin; i < kept.end; ++i) {
      WEFT_RETURN_IF_ERROR(AddRows(content.entries[i], {0, content.num_rows},
                                   row_shape, i - kept.begin, stored));
    }
  }
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
