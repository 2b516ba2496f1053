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

  // The concatenation of the parts, cut. Fragments come in the order in which
  // their logical tensors are named first; pieces of one are joined.
  // kInvalidArgument if a part lies outside of its tensor or does not fit to
  // the others.
  absl::Status AddDescribed(const StoredDescription& description);
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
  absl::StatusOr<int32_t> IndexOf(const std::string& name,
                                  std::string_view where) const;
  absl::StatusOr<Piece> PieceOf(const StoredPart& part) const;
  absl::StatusOr<std::vector<Piece>> PiecesOf(
      const StoredDescription& description) const;
  absl::StatusOr<tensor::DType> DTypeOf(const StoredDescription& description,
                                        const std::vector<Piece>& pieces) const;

  std::vector<tensor::TensorSpec> logical_;
  absl::flat_hash_map<std::string, int32_t> index_by_name_;
  std::optional<tensor::DType> dtype_;
  std::vector<layout::StoredTensor> stored_;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_STORED_BUILDER_H_
