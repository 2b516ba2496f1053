// FP8 copies that a publisher makes of the blocks that it holds whole, once a
// version for all its readers (docs/decisions/0010-block-fp8.md).
#ifndef WEFT_SESSION_QUANTISED_COPY_INTERNAL_H_
#define WEFT_SESSION_QUANTISED_COPY_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/convert/cuda/program.h"
#include "weft/convert/kernel.h"
#include "weft/layout/index_map.h"
#include "weft/manifest/placement.h"
#include "weft/tensor/box.h"
#include "weft/tensor/scale_scheme.h"

namespace weft::session {

class QuantisedCopies {
 public:
  // Appends to `placement` a stored tensor of elements and one of scales for
  // every part of a scaled matrix whose blocks it holds whole in another form
  // and not in FP8 as well. Theirs are the last stored tensors, named after
  // the one they are made of: "q_proj.weight fp8", "q_proj.weight fp8 scales".
  static absl::StatusOr<QuantisedCopies> AddTo(manifest::Placement& placement);

  bool empty() const { return copies_.empty(); }

  // Quantises what the stored tensors hold now. stored_bases[i] = memory of
  // stored tensor i of the placement, the added ones writable. The bytes do
  // not depend on `num_threads`.
  absl::Status Refresh(const convert::Kernels& kernels,
                       absl::Span<std::byte* const> stored_bases,
                       int num_threads) const;

  // The same as programs of a GPU that holds them all, to be run one after the
  // other, which use DeviceScratchBytes() at `scratch`.
  absl::StatusOr<std::vector<convert::cuda::ProgramSpec>> ForDevice(
      absl::Span<std::byte* const> stored_bases, std::byte* scratch) const;
  // For what is not stored as rows of the matrix's own dtype.
  int64_t DeviceScratchBytes() const;

 private:
  struct Copy {
    size_t stored = 0;     // what it is made of
    layout::IndexMap map;  // of the fragment; contains `box`
    tensor::DType held = tensor::DType::kBF16;    // by the stored tensor
    tensor::DType wanted = tensor::DType::kBF16;  // of the matrix
    tensor::Box box;                              // whole blocks
    tensor::Shape block;
    tensor::ScaleRule rule = tensor::ScaleRule::kFloat;
    size_t elements = 0;  // stored tensors that are written
    size_t scales = 0;
  };
  // Some rows of blocks of a copy: what one thread does at a time.
  struct Band {
    size_t copy = 0;
    tensor::Range rows;
  };
  absl::Status QuantiseBand(const convert::Kernels& kernels,
                            absl::Span<std::byte* const> stored_bases,
                            const Band& band,
                            std::vector<std::byte>& buffer) const;

  std::vector<Copy> copies_;
  std::vector<Band> bands_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_QUANTISED_COPY_INTERNAL_H_
