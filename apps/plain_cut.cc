#include "plain_cut.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "fragment_rows.h"
#include "plain_quantise.h"
#include "scalar_cast.h"
#include "stand_in_step.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/tensor/conversion.h"

namespace weft::apps {
namespace {

// Writes the contiguous items `src` of one row to where the row lies in
// `dst`.
void ScatterRow(const FragmentRow& row, const tensor::Conversion& conversion,
                const std::byte* src, std::byte* dst) {
  const std::size_t src_bytes =
      static_cast<std::size_t>(tensor::ItemBytes(conversion.from));
  const std::size_t dst_bytes =
      static_cast<std::size_t>(tensor::ItemBytes(conversion.to));
  const std::size_t count = static_cast<std::size_t>(row.num_elements);
  std::byte* at = dst + static_cast<std::size_t>(row.stored_begin) * dst_bytes;
  if (conversion.identity() && row.stored_stride == 1) {
    std::memcpy(at, src, count * src_bytes);
    return;
  }
  const std::size_t stride_bytes =
      static_cast<std::size_t>(row.stored_stride) * dst_bytes;
  for (std::size_t k = 0; k < count; ++k) {
    if (conversion.identity()) {
      std::memcpy(at + k * stride_bytes, src + k * src_bytes, src_bytes);
      continue;
    }
    uint32_t bits = 0;  // casts are among items of up to 4 bytes
    std::memcpy(&bits, src + k * src_bytes, src_bytes);
    bits = CastBits(conversion, bits);
    std::memcpy(at + k * stride_bytes, &bits, dst_bytes);
  }
}

// The items of a logical tensor, one row after another. What is made entry by
// entry is held only for the entry that the last row was of.
class RowReader {
 public:
  RowReader(const checkpoint::Checkpoint& checkpoint,
            const tensor::TensorSpec& logical)
      : checkpoint_(checkpoint), logical_(logical) {}

  absl::Status Open() {
    if (!checkpoint_.IsMade(logical_.name)) {
      WEFT_ASSIGN_OR_RETURN(entry_.bytes, checkpoint_.Data(logical_.name));
      return absl::OkStatus();
    }
    entry_elements_ = 1;
    for (std::size_t dim = 1; dim < logical_.shape.size(); ++dim) {
      entry_elements_ *= logical_.shape[dim];
    }
    return absl::OkStatus();
  }

  absl::StatusOr<absl::Span<const std::byte>> Read(const FragmentRow& row) {
    int64_t begin = row.logical_begin;
    if (entry_elements_ > 0) {
      const int64_t index = begin / entry_elements_;
      if (index != entry_index_) {
        WEFT_ASSIGN_OR_RETURN(entry_,
                              checkpoint_.EntryOf(logical_.name, index));
        entry_index_ = index;
      }
      begin -= index * entry_elements_;
    }
    const auto item =
        static_cast<std::size_t>(tensor::ItemBytes(logical_.dtype));
    return entry_.bytes.subspan(
        static_cast<std::size_t>(begin) * item,
        static_cast<std::size_t>(row.num_elements) * item);
  }

 private:
  const checkpoint::Checkpoint& checkpoint_;
  const tensor::TensorSpec& logical_;
  int64_t entry_elements_ = 0;  // 0: all of it is at hand
  int64_t entry_index_ = -1;
  checkpoint::Checkpoint::Entry entry_;
};

// A recipe is data that a user can write: a wrong one must not become a wild
// memory access.
absl::Status CheckFragment(const layout::StoredTensor& stored,
                           int64_t stored_elements,
                           const layout::Fragment& fragment,
                           const std::vector<tensor::TensorSpec>& tensors) {
  if (fragment.tensor < 0 ||
      static_cast<std::size_t>(fragment.tensor) >= tensors.size()) {
    return absl::InternalError(absl::StrCat(
        "stored tensor \"", stored.name, "\" refers to logical tensor ",
        fragment.tensor, " of ", tensors.size()));
  }
  const tensor::TensorSpec& logical =
      tensors[static_cast<std::size_t>(fragment.tensor)];
  WEFT_ASSIGN_OR_RETURN(const tensor::Box whole,
                        tensor::Box::OfShape(logical.shape));
  const tensor::Box& box = fragment.map.box();
  if (box.rank() != whole.rank() || !tensor::Contains(whole, box)) {
    return absl::InternalError(absl::StrCat(
        "box ", box.ToString(), " of stored tensor \"", stored.name,
        "\" exceeds the shape ", tensor::ShapeToString(logical.shape), " of \"",
        logical.name, "\""));
  }
  if (fragment.map.end_offset_elements() > stored_elements) {
    return absl::InternalError(
        absl::StrCat("fragment of \"", logical.name, "\" ends at element ",
                     fragment.map.end_offset_elements(), " of stored tensor \"",
                     stored.name, "\", which has ", stored_elements));
  }
  return absl::OkStatus();
}

absl::Status CutFragment(const layout::Fragment& fragment,
                         const tensor::TensorSpec& logical,
                         tensor::DType stored_dtype,
                         const checkpoint::Checkpoint& checkpoint, int64_t step,
                         absl::Span<std::byte> out) {
  const tensor::Conversion conversion{logical.dtype, stored_dtype,
                                      fragment.transform};
  absl::Status supported = tensor::CheckSupported(conversion);
  if (!supported.ok()) return base::Annotate(supported, logical.name);
  WEFT_ASSIGN_OR_RETURN(const tensor::TensorSpec in_checkpoint,
                        checkpoint.Spec(logical.name));
  if (!(in_checkpoint == logical)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", logical.name, "\" is ",
                     std::string(tensor::DTypeName(in_checkpoint.dtype)),
                     tensor::ShapeToString(in_checkpoint.shape),
                     " in the checkpoint, but the layout was made for ",
                     std::string(tensor::DTypeName(logical.dtype)),
                     tensor::ShapeToString(logical.shape)));
  }
  RowReader reader(checkpoint, logical);
  WEFT_RETURN_IF_ERROR(reader.Open());
  std::vector<std::byte> items;
  absl::Status status;
  ForEachRow(fragment.map, logical.shape, [&](const FragmentRow& row) {
    if (!status.ok()) return;
    const absl::StatusOr<absl::Span<const std::byte>> source = reader.Read(row);
    status = source.status();
    if (!status.ok()) return;
    items.assign(source->begin(), source->end());
    StepItems(logical.dtype, row.logical_begin, /*from_step=*/0, step,
              absl::MakeSpan(items));
    ScatterRow(row, conversion, items.data(), out.data());
  });
  return status;
}

// The matrix that `fragment` holds elements or scales of, if the checkpoint
// does not have them so; else nullptr.
const layout::ScaledTensor* QuantisedHere(
    const layout::Fragment& fragment, const layout::StoredTensor& stored,
    const std::vector<tensor::TensorSpec>& tensors,
    absl::Span<const layout::ScaledTensor> scaled,
    const checkpoint::Checkpoint& checkpoint) {
  for (const layout::ScaledTensor& each : scaled) {
    const tensor::TensorSpec& scales =
        tensors[static_cast<std::size_t>(each.scales)];
    const bool is_elements = each.tensor == fragment.tensor &&
                             stored.dtype == tensor::DType::kF8E4M3;
    if (!is_elements && each.scales != fragment.tensor) continue;
    return checkpoint.Spec(scales.name).ok() ? nullptr : &each;
  }
  return nullptr;
}

// The matrix that was quantised last: fragments of one follow each other.
struct LastQuantised {
  int32_t tensor = -1;
  PlainQuantised whole;
};

absl::Status CutQuantised(const layout::Fragment& fragment,
                          const layout::ScaledTensor& scaled,
                          const std::vector<tensor::TensorSpec>& tensors,
                          tensor::DType stored_dtype,
                          const checkpoint::Checkpoint& checkpoint,
                          int64_t step, LastQuantised& last,
                          absl::Span<std::byte> out) {
  if (last.tensor != scaled.tensor) {
    WEFT_ASSIGN_OR_RETURN(
        last.whole,
        QuantisePlainly(tensors[static_cast<std::size_t>(scaled.tensor)],
                        scaled.scheme, checkpoint, step));
    last.tensor = scaled.tensor;
  }
  const PlainQuantised& whole = last.whole;
  const bool is_elements = fragment.tensor == scaled.tensor;
  const auto* const values = reinterpret_cast<const std::byte*>(
      is_elements ? static_cast<const void*>(whole.elements.data())
                  : static_cast<const void*>(whole.scales.data()));
  const tensor::DType dtype =
      is_elements ? tensor::DType::kF8E4M3 : tensor::DType::kF32;
  const auto item = static_cast<std::size_t>(tensor::ItemBytes(dtype));
  ForEachRow(
      fragment.map, tensors[static_cast<std::size_t>(fragment.tensor)].shape,
      [&](const FragmentRow& row) {
        ScatterRow(row, {dtype, stored_dtype},
                   values + static_cast<std::size_t>(row.logical_begin) * item,
                   out.data());
      });
  return absl::OkStatus();
}

absl::StatusOr<int64_t> BytesOf(const layout::StoredTensor& stored) {
  WEFT_ASSIGN_OR_RETURN(const int64_t elements, layout::NumElements(stored));
  const std::optional<int64_t> bytes =
      base::CheckedMul(elements, tensor::ItemBytes(stored.dtype));
  if (!bytes.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("stored tensor \"", stored.name, "\" of shape ",
                     tensor::ShapeToString(stored.shape),
                     " has more bytes than 64 bits can count"));
  }
  return *bytes;
}

std::string ElementName(const tensor::TensorSpec& logical,
                        int64_t logical_index) {
  tensor::Shape x = logical.shape;
  for (std::size_t dim = x.size(); dim-- > 0;) {
    x[dim] = logical_index % logical.shape[dim];
    logical_index /= logical.shape[dim];
  }
  return absl::StrCat(logical.name, tensor::ShapeToString(x));
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> CutStored(
    const layout::StoredTensor& stored,
    const std::vector<tensor::TensorSpec>& tensors,
    absl::Span<const layout::ScaledTensor> scaled,
    const checkpoint::Checkpoint& checkpoint, int64_t step) {
  WEFT_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(stored));
  std::vector<std::byte> out(static_cast<std::size_t>(bytes));
  WEFT_RETURN_IF_ERROR(CutStoredInto(stored, tensors, scaled, checkpoint, step,
                                     absl::MakeSpan(out)));
  return out;
}

absl::Status CutStoredInto(const layout::StoredTensor& stored,
                           const std::vector<tensor::TensorSpec>& tensors,
                           absl::Span<const layout::ScaledTensor> scaled,
                           const checkpoint::Checkpoint& checkpoint,
                           int64_t step, absl::Span<std::byte> out) {
  WEFT_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(stored));
  if (static_cast<std::size_t>(bytes) != out.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("stored tensor \"", stored.name, "\" has ", bytes,
                     " bytes, but was given room for ", out.size()));
  }
  const int64_t elements = bytes / tensor::ItemBytes(stored.dtype);
  std::fill(out.begin(), out.end(), std::byte{0});
  LastQuantised last;
  for (const layout::Fragment& fragment : stored.fragments) {
    WEFT_RETURN_IF_ERROR(CheckFragment(stored, elements, fragment, tensors));
    if (const layout::ScaledTensor* const of =
            QuantisedHere(fragment, stored, tensors, scaled, checkpoint)) {
      WEFT_RETURN_IF_ERROR(CutQuantised(fragment, *of, tensors, stored.dtype,
                                        checkpoint, step, last, out));
      continue;
    }
    WEFT_RETURN_IF_ERROR(CutFragment(
        fragment, tensors[static_cast<std::size_t>(fragment.tensor)],
        stored.dtype, checkpoint, step, out));
  }
  return absl::OkStatus();
}

std::string OriginOf(const layout::StoredTensor& stored,
                     const std::vector<tensor::TensorSpec>& tensors,
                     int64_t stored_index) {
  std::string origin = "padding";
  for (const layout::Fragment& fragment : stored.fragments) {
    const tensor::TensorSpec& logical =
        tensors[static_cast<std::size_t>(fragment.tensor)];
    ForEachRow(fragment.map, logical.shape, [&](const FragmentRow& row) {
      for (int64_t k = 0; k < row.num_elements; ++k) {
        if (row.stored_begin + k * row.stored_stride == stored_index) {
          origin = ElementName(logical, row.logical_begin + k);
        }
      }
    });
  }
  return origin;
}

}  // namespace weft::apps
