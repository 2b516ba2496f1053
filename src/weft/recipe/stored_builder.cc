#include "weft/recipe/stored_builder.h"

#include <algorithm>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/layout/mesh.h"
#include "weft/recipe/scale_layout.h"
#include "weft/tensor/scale_scheme.h"

namespace weft::recipe {
namespace {

// A box of one entry's coordinates in those of the stored tensor.
absl::StatusOr<tensor::Box> ZeroBox(const tensor::Box& rows,
                                    std::optional<int64_t> entry) {
  if (!entry) return rows;
  absl::InlinedVector<tensor::Range, 4> ranges{{*entry, *entry + 1}};
  ranges.insert(ranges.end(), rows.ranges().begin(), rows.ranges().end());
  return tensor::Box::Make(ranges);
}

// Calls `place(pieces, rows kept, number)` with each entry of a stack that
// `kept` keeps, or once, without a number, for what is no stack.
template <typename Place>
absl::Status ForEachEntry(const StoredDescription& description,
                          const StoredContent& content, tensor::Range kept,
                          Place place) {
  if (!description.is_stack) {
    return place(content.entries[0], kept, std::optional<int64_t>());
  }
  for (int64_t i = kept.begin; i < kept.end; ++i) {
    WEFT_RETURN_IF_ERROR(place(content.entries[i],
                               tensor::Range{0, content.num_rows()},
                               std::optional<int64_t>(i - kept.begin)));
  }
  return absl::OkStatus();
}

// Shape of a stored tensor that keeps `kept` of rows or entries that look like
// `entry`.
tensor::Shape StoredShape(const StoredDescription& description,
                          tensor::Shape entry, tensor::Range kept) {
  if (!description.is_stack) {
    entry[0] = kept.extent();
    return entry;
  }
  tensor::Shape shape{kept.extent()};
  shape.insert(shape.end(), entry.begin(), entry.end());
  return shape;
}

}  // namespace

bool StoredBuilder::IsQuantised(const StoredDescription& description,
                                const StoredContent& content) const {
  if (!options_.quant.has_value() || !description.quant) return false;
  if (!logical_.is_quantised) return true;
  // A quantised checkpoint has decided.
  for (const std::vector<StoredPiece>& entry : content.entries) {
    for (const StoredPiece& piece : entry) {
      if (piece.is_zeros()) continue;
      return logical_.specs[piece.tensor].dtype == tensor::DType::kF8E4M3;
    }
  }
  return false;
}

absl::StatusOr<tensor::DType> StoredBuilder::DTypeOf(
    const StoredDescription& description, const StoredContent& content) const {
  const tensor::TensorSpec* first = nullptr;
  const bool quantised = IsQuantised(description, content);
  bool pinned = false, differ = false;
  for (const std::vector<StoredPiece>& entry : content.entries) {
    for (const StoredPiece& piece : entry) {
      if (piece.is_zeros()) continue;
      const tensor::TensorSpec& spec = logical_.specs[piece.tensor];
      pinned = pinned || logical_.dtype_pinned[piece.tensor];
      if (spec.dtype == tensor::DType::kF8E4M3 && !quantised) {
        return absl::InvalidArgumentError(
            absl::StrCat("\"", spec.name,
                         "\" is F8_E4M3 in the checkpoint but "
                         "\"",
                         description.name,
                         "\" is not held quantised; give quant=fp8-block"));
      }
      if (first == nullptr) first = &spec;
      if (spec.dtype == first->dtype || differ) continue;
      differ = true;
      if (description.dtype || (options_.dtype && !pinned)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "parts of \"", description.name, "\" differ in dtype: \"",
          first->name, "\" is ", std::string(tensor::DTypeName(first->dtype)),
          ", \"", spec.name, "\" is ",
          std::string(tensor::DTypeName(spec.dtype)),
          "; give dtype=bf16, f16 or f32"));
    }
  }
  if (quantised) return tensor::DType::kF8E4M3;
  if (description.dtype) return *description.dtype;
  if (options_.dtype && !pinned) return *options_.dtype;
  return first == nullptr ? options_.dtype_of_zeros : first->dtype;
}

absl::StatusOr<std::shared_ptr<const StoredContent>> StoredBuilder::ContentOf(
    ExpandedTensor& tensor) const {
  if (tensor.content != nullptr) return tensor.content;
  WEFT_ASSIGN_OR_RETURN(StoredContent content,
                        ResolveContent(tensor.description, logical_));
  auto shared = std::make_shared<const StoredContent>(std::move(content));
  if (tensor.is_kept) tensor.content = shared;
  return shared;
}

absl::Status StoredBuilder::AddDescribed(ExpandedTensor& tensor) {
  const StoredDescription& description = tensor.description;
  if (tensor.stored != nullptr) {
    Append(*tensor.stored, description.where);
    return absl::OkStatus();
  }
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const StoredContent> content,
                        ContentOf(tensor));
  const int64_t rows = content->num_rows();
  const tensor::Range kept =
      description.is_stack ? tensor::Range{0, description.num_entries}
                           : description.cut.value_or(tensor::Range{0, rows});
  if (!description.is_stack && kept.end > rows) {
    return FailAt(
        description.where,
        absl::StrCat("cut [", kept.begin, ",", kept.end, ") exceeds the ", rows,
                     " rows of \"", description.name, "\""));
  }
  WEFT_ASSIGN_OR_RETURN(layout::StoredTensor stored,
                        Build(description, *content, kept));
  if (IsQuantised(description, *content)) {
    Append(std::move(stored), description.where);
    return AddScales(description, *content, kept);
  }
  if (tensor.is_kept) {
    // All that is needed from here on.
    tensor.stored = std::make_shared<const layout::StoredTensor>(stored);
    tensor.content.reset();
  }
  Append(std::move(stored), description.where);
  return absl::OkStatus();
}

absl::Status StoredBuilder::AddChunk(ExpandedTensor& tensor, int64_t shard,
                                     int64_t shard_rank) {
  WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const StoredContent> content,
                        ContentOf(tensor));
  WEFT_ASSIGN_OR_RETURN(
      layout::StoredTensor stored,
      Build(tensor.description, *content,
            layout::ChunkSplit(content->num_rows(), shard, shard_rank)));
  Append(std::move(stored), tensor.description.where);
  return absl::OkStatus();
}

// `kept`: along dimension 0 of the stored tensor.
absl::StatusOr<layout::StoredTensor> StoredBuilder::Build(
    const StoredDescription& description, const StoredContent& content,
    tensor::Range kept) const {
  layout::StoredTensor stored;
  stored.name = description.name;
  WEFT_ASSIGN_OR_RETURN(stored.dtype, DTypeOf(description, content));
  stored.shape = StoredShape(description, content.entry_shape, kept);
  WEFT_ASSIGN_OR_RETURN(const tensor::Box whole,
                        tensor::Box::OfShape(stored.shape));
  FragmentList fragments;
  const auto place = [&](const std::vector<StoredPiece>& pieces,
                         tensor::Range rows_kept,
                         std::optional<int64_t> entry) -> absl::Status {
    tensor::Shape shape = content.entry_shape;
    shape[0] = rows_kept.extent();
    WEFT_ASSIGN_OR_RETURN(const tensor::Box box, tensor::Box::OfShape(shape));
    for (const PieceRows& rows : KeptRows(pieces, rows_kept)) {
      if (rows.piece->is_zeros()) {
        const tensor::Range at{rows.stored_row,
                               rows.stored_row + rows.rows.extent()};
        WEFT_ASSIGN_OR_RETURN(stored.zero_fill.emplace_back(),
                              ZeroBox(box.WithRange(0, at), entry));
        continue;
      }
      // Cannot overflow: the box of the whole stored tensor was made.
      WEFT_ASSIGN_OR_RETURN(
          std::vector<layout::IndexMap> maps,
          MapsOf(rows, shape, entry.value_or(0) * box.num_elements()));
      for (layout::IndexMap& map : maps) {
        fragments.Add(rows.piece->tensor, std::move(map));
      }
    }
    return absl::OkStatus();
  };
  if (!whole.empty()) {
    WEFT_RETURN_IF_ERROR(ForEachEntry(description, content, kept, place));
    fragments.Join(description.transform, stored.fragments);
  }
  return stored;
}

// The scales of what was just added, under its name with a suffix.
absl::Status StoredBuilder::AddScales(const StoredDescription& description,
                                      const StoredContent& content,
                                      tensor::Range kept) {
  const QuantChoice& choice = *options_.quant;
  WEFT_ASSIGN_OR_RETURN(ScaleLayout scales, LayScales(description, content,
                                                      kept, choice, logical_));
  layout::StoredTensor stored;
  stored.name = absl::StrCat(description.name, std::string(choice.suffix()));
  stored.dtype = choice.scale_dtype();
  stored.shape = std::move(scales.shape);
  stored.zero_fill = std::move(scales.zero_fill);
  FragmentList fragments;
  for (ScalePiece& piece : scales.pieces) {
    WEFT_ASSIGN_OR_RETURN(const int32_t tensor,
                          ScalesOf(piece.matrix, choice, piece.where));
    if (choice.form == ScaleForm::kPacked) {
      // The rows of a block repeat its scales: nothing to join.
      stored.fragments.push_back({tensor, std::move(piece.map)});
    } else {
      fragments.Add(tensor, std::move(piece.map));
    }
  }
  fragments.Join(tensor::Transform::kNone, stored.fragments);
  Append(std::move(stored), description.where);
  return absl::OkStatus();
}

// The logical tensor of the scales of `tensor`: the checkpoint's own, or a new
// one that quantising gives.
absl::StatusOr<int32_t> StoredBuilder::ScalesOf(int32_t tensor,
                                                const QuantChoice& choice,
                                                std::string_view where) {
  if (const auto known = scales_of_.find(tensor); known != scales_of_.end()) {
    return known->second;
  }
  const tensor::TensorSpec& matrix = logical_.specs[tensor];
  tensor::TensorSpec spec;
  spec.name = absl::StrCat(matrix.name, std::string(choice.suffix()));
  spec.dtype = tensor::DType::kF32;
  WEFT_ASSIGN_OR_RETURN(spec.shape,
                        tensor::ScaleShape(choice.scheme, matrix.shape));
  int32_t scales;
  if (matrix.dtype == tensor::DType::kF8E4M3) {
    if (!(choice.scheme == tensor::ScaleScheme{})) {
      return FailAt(
          where,
          absl::StrCat("\"", matrix.name,
                       "\" is F8_E4M3 in the checkpoint, with F32 scales of "
                       "blocks of 128 x 128; ",
                       choice.words,
                       " would quantise it anew; give quant=fp8-block"));
    }
    const auto found = logical_.by_name.find(spec.name);
    if (found == logical_.by_name.end()) {
      return FailAt(where, absl::StrCat("\"", matrix.name,
                                        "\" is F8_E4M3 but the checkpoint has "
                                        "no \"",
                                        spec.name, "\""));
    }
    scales = found->second;
  } else {
    scales = static_cast<int32_t>(logical_.specs.size() + scales_.size());
    scales_.push_back(std::move(spec));
    scaled_.push_back({tensor, scales, choice.scheme});
  }
  scales_of_.emplace(tensor, scales);
  return scales;
}

absl::Status StoredBuilder::AddBox(int32_t tensor, const tensor::Box& box,
                                   const std::string& name,
                                   std::string_view where,
                                   std::optional<tensor::DType> dtype) {
  layout::StoredTensor stored;
  stored.name = name;
  stored.dtype = logical_.specs[tensor].dtype;
  const bool is_free =
      !logical_.dtype_pinned[tensor] && stored.dtype != tensor::DType::kF8E4M3;
  if (options_.dtype && is_free) stored.dtype = *options_.dtype;
  if (dtype) stored.dtype = *dtype;
  stored.shape = box.shape();
  if (!box.empty()) {
    const tensor::Shape origin(stored.shape.size(), 0);
    WEFT_ASSIGN_OR_RETURN(layout::IndexMap map, layout::IndexMap::RowMajor(
                                                    box, stored.shape, origin));
    stored.fragments.push_back({tensor, std::move(map)});
  }
  Append(std::move(stored), where);
  return absl::OkStatus();
}

void StoredBuilder::Append(layout::StoredTensor stored,
                           std::string_view where) {
  stored_.push_back(std::move(stored));
  origins_.emplace_back(where);
}

absl::Status StoredBuilder::Offer() {
  for (const layout::StoredTensor& stored : stored_) {
    for (const layout::Fragment& fragment : stored.fragments) {
      const int32_t tensor = fragment.tensor;
      if (!logical_.quant[tensor] ||
          logical_.specs[tensor].dtype == tensor::DType::kF8E4M3) {
        continue;
      }
      WEFT_RETURN_IF_ERROR(
          ScalesOf(tensor, *options_.offer_quant, stored.name).status());
    }
  }
  return absl::OkStatus();
}

absl::Status StoredBuilder::Finish(RankLayout& layout) {
  if (options_.offer_quant.has_value()) WEFT_RETURN_IF_ERROR(Offer());
  // A rank may hold few of very many tensors: nothing is done for each of all.
  std::vector<int32_t> used;
  for (const layout::StoredTensor& stored : stored_) {
    for (const layout::Fragment& fragment : stored.fragments) {
      if (used.empty() || used.back() != fragment.tensor) {
        used.push_back(fragment.tensor);
      }
    }
  }
  for (const layout::ScaledTensor& scaled : scaled_) {
    used.insert(used.end(), {scaled.tensor, scaled.scales});
  }
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  const auto new_index = [&used](int32_t tensor) {
    return static_cast<int32_t>(
        std::lower_bound(used.begin(), used.end(), tensor) - used.begin());
  };
  layout.tensors.reserve(used.size());
  for (const int32_t tensor : used) {
    const auto i = static_cast<std::size_t>(tensor);
    layout.tensors.push_back(i < logical_.specs.size()
                                 ? logical_.specs[i]
                                 : scales_[i - logical_.specs.size()]);
  }
  for (layout::StoredTensor& stored : stored_) {
    for (layout::Fragment& fragment : stored.fragments) {
      fragment.tensor = new_index(fragment.tensor);
    }
  }
  for (const layout::ScaledTensor& scaled : scaled_) {
    layout.scaled.push_back(
        {new_index(scaled.tensor), new_index(scaled.scales), scaled.scheme});
  }
  std::sort(layout.scaled.begin(), layout.scaled.end(),
            [](const layout::ScaledTensor& a, const layout::ScaledTensor& b) {
              return a.tensor < b.tensor;
            });
  layout.stored = std::move(stored_);
  layout.origins = std::move(origins_);
  return absl::OkStatus();
}

}  // namespace weft::recipe
