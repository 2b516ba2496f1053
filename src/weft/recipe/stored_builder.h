// Descriptions to stored tensors: where each element of each part comes from.
// Private to this room.
#ifndef WEFT_RECIPE_STORED_BUILDER_H_
#define WEFT_RECIPE_STORED_BUILDER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/table_expander.h"
#include "weft/tensor/box.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::recipe {

// Builds the stored tensors of one rank. Fragments refer to the tensors given
// to the constructor until TakeUsedTensors renumbers them.
class StoredBuilder {
 public:
  // `dtype`: of every stored tensor; nullopt = that of its logical tensors.
  StoredBuilder(std::vector<tensor::TensorSpec> logical,
                std::optional<tensor::DType> dtype);

  // The concatenation of the parts, cut, or the stack of the entries.
  // Fragments come entry by entry, in the order in which their logical tensors
  // are named first; pieces of one are joined. kInvalidArgument if a part lies
  // outside of its tensor or does not fit to the others.
  absl::Status AddDescribed(const StoredDescription& description);
  // Of a description of the whole tensor the share of dimension 0 that
  // torch.chunk gives `shard_rank` of `shard` ranks; possibly none.
  absl::Status AddChunk(const StoredDescription& description, int64_t shard,
                        int64_t shard_rank);
  // `box` of the tensor named `name`, stored under the same name.
  absl::Status AddBox(const std::string& name, const tensor::Box& box);

  // The stored tensors so far, and the logical tensors that they refer to, in
  // the constructor's order. Leaves the builder empty.
  struct Result {
    std::vector<tensor::TensorSpec> tensors;
    std::vector<layout::StoredTensor> stored;
  };
  Result Take();

 private:
  struct Piece;
  struct Content;
  absl::StatusOr<int32_t> IndexOf(const std::string& name,
                                  std::string_view where) const;
  absl::StatusOr<Piece> PieceOf(const StoredPart& part) const;
  absl::StatusOr<Content> ContentOf(const StoredDescription& description) const;
  absl::Status CheckPieces(const StoredDescription& description,
                           const Content& content) const;
  absl::StatusOr<tensor::DType> DTypeOf(const StoredDescription& description,
                                        const Content& content) const;
  absl::Status Add(const StoredDescription& description, const Content& content,
                   tensor::Range kept);
  static absl::Status AddRows(const std::vector<Piece>& pieces,
                              tensor::Range kept, const tensor::Shape& shape,
                              std::optional<int64_t> entry,
                              layout::StoredTensor& stored);

  std::vector<tensor::TensorSpec> logical_;
  absl::flat_hash_map<std::string, int32_t> index_by_name_;
  std::optional<tensor::DType> dtype_;
  std::vector<layout::StoredTensor> stored_;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_STORED_BUILDER_H_
