#include "stand_in_step.h"

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "fragment_rows.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

using tensor::DType;

// m depends on i only through h(i) mod 7, so all changes between two steps
// fit one word: four bits for each of the seven residues.
class StepChange {
 public:
  StepChange(int64_t from_step, int64_t to_step) {
    for (uint32_t residue = 0; residue < 7; ++residue) {
      const uint32_t change =
          MaskOf(residue, from_step) ^ MaskOf(residue, to_step);
      nibbles_ |= change << (4 * residue);
    }
  }
  uint32_t At(uint32_t logical_index) const {
    // 32-bit arithmetic keeps the low 32 bits of the 64-bit product.
    const uint32_t h = (logical_index * 2654435761u) >> 16;
    return (nibbles_ >> (4 * (h % 7))) & 0xf;
  }

 private:
  static uint32_t MaskOf(uint32_t residue, int64_t step) {
    if (step == 0) return 0;
    return (residue + static_cast<uint32_t>(step % 7)) % 7 + 1;
  }
  uint32_t nibbles_ = 0;
};

template <typename Word>
inline void XorWord(std::byte* at, uint32_t mask) {
  Word word;
  std::memcpy(&word, at, sizeof(word));
  word = static_cast<Word>(word ^ mask);
  std::memcpy(at, &word, sizeof(word));
}

template <typename Word>
void XorRow(const FragmentRow& row, StepChange change, int shift,
            std::byte* data) {
  constexpr int64_t kBytes = static_cast<int64_t>(sizeof(Word));
  // Locals: a write to std::byte may alias whatever a reference leads to.
  const int64_t num_elements = row.num_elements;
  const int64_t stride_bytes = row.stored_stride * kBytes;
  const uint32_t begin = static_cast<uint32_t>(row.logical_begin);
  std::byte* const at = data + row.stored_begin * kBytes;
  for (int64_t k = 0; k < num_elements; ++k) {
    const uint32_t mask = change.At(begin + static_cast<uint32_t>(k));
    XorWord<Word>(at + k * stride_bytes, mask << shift);
  }
}

// Where the logical bits lie in a stored item.
struct StoredForm {
  int64_t item_bytes = 2;
  int shift = 0;
};

absl::StatusOr<StoredForm> FormOf(const layout::StoredTensor& stored,
                                  const tensor::TensorSpec& logical) {
  if (stored.dtype == logical.dtype) {
    return StoredForm{tensor::ItemBytes(stored.dtype), 0};
  }
  if (stored.dtype == DType::kF32 && logical.dtype == DType::kBF16) {
    return StoredForm{4, 16};  // BF16 is the upper half of F32
  }
  return absl::UnimplementedError(absl::StrCat(
      "stored tensor \"", stored.name, "\" holds ",
      std::string(tensor::DTypeName(stored.dtype)), " of \"", logical.name,
      "\", which is ", std::string(tensor::DTypeName(logical.dtype)),
      " in the checkpoint; a step in place needs equal dtypes"));
}

}  // namespace

uint32_t StepMask(int64_t logical_index, int64_t step) {
  return StepChange(0, step).At(static_cast<uint32_t>(logical_index));
}

bool HasSteps(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

void StepItems(DType dtype, int64_t logical_begin, int64_t from_step,
               int64_t to_step, absl::Span<std::byte> items) {
  if (!HasSteps(dtype) || from_step == to_step) return;
  const int64_t item_bytes = tensor::ItemBytes(dtype);
  const FragmentRow row{logical_begin, 0, 1,
                        static_cast<int64_t>(items.size()) / item_bytes};
  const StepChange change(from_step, to_step);
  if (item_bytes == 2) {
    XorRow<uint16_t>(row, change, 0, items.data());
  } else {
    XorRow<uint32_t>(row, change, 0, items.data());
  }
}

absl::Status ApplyStep(const layout::StoredTensor& stored,
                       const std::vector<tensor::TensorSpec>& tensors,
                       int64_t from_step, int64_t to_step,
                       absl::Span<std::byte> data) {
  if (from_step < 0 || to_step < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "steps ", from_step, " and ", to_step, " must not be negative"));
  }
  const StepChange change(from_step, to_step);
  for (const layout::Fragment& fragment : stored.fragments) {
    const tensor::TensorSpec& logical =
        tensors[static_cast<std::size_t>(fragment.tensor)];
    if (!HasSteps(logical.dtype)) continue;
    WEFT_ASSIGN_OR_RETURN(const StoredForm form, FormOf(stored, logical));
    if (fragment.map.end_offset_elements() >
        static_cast<int64_t>(data.size()) / form.item_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "stored tensor \"", stored.name, "\" has elements up to ",
          fragment.map.end_offset_elements(), ", but was given ", data.size(),
          " bytes"));
    }
    ForEachRow(fragment.map, logical.shape, [&](const FragmentRow& row) {
      if (form.item_bytes == 2) {
        XorRow<uint16_t>(row, change, form.shift, data.data());
      } else {
        XorRow<uint32_t>(row, change, form.shift, data.data());
      }
    });
  }
  return absl::OkStatus();
}

}  // namespace weft::apps
