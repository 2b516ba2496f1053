// Descriptions to stored tensors: where each element of each part comes from.
// Private to this room.
#ifndef WEFT_RECIPE_STORED_BUILDER_H_
#define WEFT_RECIPE_STORED_BUILDER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/logical_index.h"
#include "weft/recipe/quant_choice.h"
#include "weft/recipe/recipe.h"
#include "weft/recipe/stored_pieces.h"
#include "weft/recipe/table_expander.h"
#include "weft/tensor/box.h"
#include "weft/tensor/dtype.h"

namespace weft::recipe {

struct BuilderOptions {
  // Of every stored tensor that is not pinned; nullopt = that of its logical
  // tensors.
  std::optional<tensor::DType> dtype;
  // Of a tensor that has no logical one.
  tensor::DType dtype_of_zeros = tensor::DType::kBF16;
  // What the table marks `quant` is held in FP8 so, scales beside it.
  std::optional<QuantChoice> quant;
  // What the checkpoint marks `quant` is held as it is and offered in FP8 too.
  std::optional<QuantChoice> offer_quant;
};

// Builds the stored tensors of one rank.
class StoredBuilder {
 public:
  // `logical` outlives the builder.
  StoredBuilder(const LogicalIndex& logical, const BuilderOptions& options)
      : logical_(logical), options_(options) {}

  // The concatenation of the parts, cut, or the stack of the entries. Pieces
  // of one logical tensor are joined; fragments come in the order in which
  // their logical tensors are named first. kInvalidArgument if a part lies
  // outside of its tensor or does not fit to the others.
  absl::Status AddDescribed(ExpandedTensor& tensor);
  // Of the concatenation, which is no stack, the rows that torch.chunk gives
  // `shard_rank` of `shard` ranks; possibly none.
  absl::Status AddChunk(ExpandedTensor& tensor, int64_t shard,
                        int64_t shard_rank);
  // `box` of logical tensor number `tensor`, stored under `name`. `dtype`: what
  // it is held in whatever the layout says; nullopt = as the checkpoint's.
  absl::Status AddBox(int32_t tensor, const tensor::Box& box,
                      const std::string& name, std::string_view where,
                      std::optional<tensor::DType> dtype);

  // At the end, once. Moves what was built, and the logical tensors that it
  // refers to, in the checkpoint's order, into `layout`.
  absl::Status Finish(RankLayout& layout);

 private:
  absl::StatusOr<tensor::DType> DTypeOf(const StoredDescription& description,
                                        const StoredContent& content) const;
  bool IsQuantised(const StoredDescription& description,
                   const StoredContent& content) const;
  absl::StatusOr<std::shared_ptr<const StoredContent>> ContentOf(
      ExpandedTensor& tensor) const;
  absl::StatusOr<layout::StoredTensor> Build(
      const StoredDescription& description, const StoredContent& content,
      tensor::Range kept) const;
  absl::Status AddScales(const StoredDescription& description,
                         const StoredContent& content, tensor::Range kept);
  absl::StatusOr<int32_t> ScalesOf(int32_t tensor, const QuantChoice& choice,
                                   std::string_view where);
  absl::Status Offer();
  void Append(layout::StoredTensor stored, std::string_view where);

  const LogicalIndex& logical_;
  const BuilderOptions options_;
  std::vector<layout::StoredTensor> stored_;
  std::vector<std::string_view> origins_;
  // Scales that the checkpoint does not have; indices go on after `logical_`.
  std::vector<tensor::TensorSpec> scales_;
  std::vector<layout::ScaledTensor> scaled_;  // indices as in fragments
  absl::flat_hash_map<int32_t, int32_t> scales_of_;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_STORED_BUILDER_H_
