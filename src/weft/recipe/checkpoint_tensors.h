// What a checkpoint holds by a recipe, matched with what it really has: the
// part of a layout that is the same for all ranks. Private to this room.
#ifndef WEFT_RECIPE_CHECKPOINT_TENSORS_H_
#define WEFT_RECIPE_CHECKPOINT_TENSORS_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/recipe/config_binding.h"
#include "weft/recipe/logical_index.h"
#include "weft/recipe/model_config.h"
#include "weft/recipe/recipe_tables.h"
#include "weft/recipe/table_expander.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::recipe {

// `name` against one of CheckpointCache::Ignored.
bool IsIgnoredBy(std::string_view pattern, std::string_view name);

struct Checkpoint {
  // What it was made of.
  ModelConfig config;
  std::vector<tensor::TensorSpec> given;

  Environment environment;
  // The rest holds only if this is OK.
  absl::Status matched;
  std::vector<LogicalTensor> expected;  // in the recipe's order
  // The same tensors, with the dtypes that the checkpoint has.
  LogicalIndex index;
};

// Thread-safe. Remembers the last checkpoint, since all ranks of a fleet ask
// for the same.
class CheckpointCache {
 public:
  explicit CheckpointCache(const RecipeTables& tables) : tables_(tables) {}

  // kInvalidArgument if config lacks what the recipe needs.
  absl::StatusOr<Environment> Bind(const ModelConfig& config,
                                   const TensorNames& held) const;
  // Names that a checkpoint may have and that are dropped; one that ends in *
  // stands for all that begin so.
  absl::StatusOr<std::vector<std::string>> Ignored(
      const Environment& environment) const;
  // What a checkpoint that has `held` has in all.
  absl::StatusOr<std::vector<LogicalTensor>> Expected(
      const Environment& environment, tensor::DType dtype,
      const TensorNames& held) const;

  // The tensors that transformers holds as the file does, neither in another
  // form (RecipeTables::memory) nor not at all; indices, ascending. Requires
  // checkpoint.matched.ok(); found once for a checkpoint.
  absl::StatusOr<std::shared_ptr<const std::vector<int32_t>>> AsInFile(
      const std::shared_ptr<const Checkpoint>& checkpoint) const;

  absl::StatusOr<std::shared_ptr<const Checkpoint>> Find(
      const ModelConfig& config,
      const std::vector<tensor::TensorSpec>& given) const;

 private:
  absl::Status Match(const TensorNames& held, Checkpoint& checkpoint) const;
  absl::StatusOr<std::vector<int32_t>> FindAsInFile(
      const Checkpoint& checkpoint) const;

  const RecipeTables& tables_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Checkpoint> last_;  // guarded by mutex_
  // Of last_as_in_file_of_; guarded by mutex_.
  mutable std::shared_ptr<const std::vector<int32_t>> last_as_in_file_;
  mutable std::shared_ptr<const Checkpoint> last_as_in_file_of_;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_CHECKPOINT_TENSORS_H_
