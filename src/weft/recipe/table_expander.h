// Tables to lists: what the rules of a recipe say for one config and one rank.
// Private to this room.
#ifndef WEFT_RECIPE_TABLE_EXPANDER_H_
#define WEFT_RECIPE_TABLE_EXPANDER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/status.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/recipe_tables.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::recipe {

class RuleMemo;

// kInvalidArgument "WHERE: MESSAGE"; `where` is file and line of a rule.
absl::Status FailAt(std::string_view where, std::string_view message);

// What the rows of a checkpoint or of a rank's table come to.
struct LogicalTensor {
  tensor::TensorSpec spec;
  TpCut tp = TpCut::kNone;
  bool dtype_pinned = false;
  bool quant = false;
  bool shard = true;
  bool memory = true;
  std::string_view where;  // as in StoredPart
};

// A part of one entry of a stored tensor, in the order of its concatenation
// along dimension 0. Without `of`: zeros.
struct StoredPart {
  std::string of;
  std::optional<int64_t> index;          // of the leading dimension of `of`
  bool transpose = false;                // of what `index` leaves
  std::optional<tensor::Range> rows;     // of that; all if absent
  std::optional<tensor::Range> columns;  // its dimension 1; all if absent
  // Rows (x * ways + s) * unit + d go to (s * n + x) * unit + d, n of each way.
  int64_t ways = 1;
  int64_t unit = 1;
  int64_t zero_rows = 0;
  std::optional<int64_t> zero_columns;
  std::string_view where;  // in the recipe file; lives as long as the tables
};

struct StoredDescription {
  std::string name;
  // Not a stack: one entry, whose rows are dimension 0. A stack: the entries
  // that this rank keeps; at least one, which is the pattern for the shape if
  // num_entries is 0.
  std::vector<std::vector<StoredPart>> entries;
  bool is_stack = false;
  int64_t num_entries = 1;
  // The rows of the concatenation that this rank keeps; all if absent. Never
  // of a stack.
  std::optional<tensor::Range> cut;
  std::optional<tensor::DType> dtype;
  tensor::Transform transform = tensor::Transform::kNone;
  bool quant = false;
  std::string_view where;
};

struct StoredContent;

// What a stored rule came to, on a rank and on those that it is the same on.
struct ExpandedTensor {
  StoredDescription description;
  // Others will ask for it again, so that it is worth to keep what is made of
  // it. Of one call for all ranks: options and checkpoint are the same.
  bool is_kept = false;
  std::shared_ptr<const StoredContent> content;
  std::shared_ptr<const layout::StoredTensor> stored;
};
using ExpandedTensors = std::vector<std::shared_ptr<ExpandedTensor>>;

// Adds the sentence of each requirement that does not hold to `faults`. An
// error is one of the recipe file.
absl::Status CheckRequirements(const std::vector<Requirement>& requirements,
                               const Environment& environment,
                               base::FaultList& faults);

absl::Status EvaluateLets(const std::vector<Let>& lets,
                          Environment& environment);

// kInvalidArgument also when a name comes twice.
absl::StatusOr<std::vector<LogicalTensor>> ExpandLogical(
    const std::vector<LogicalRule>& rules, const Environment& environment,
    tensor::DType dtype);
// `share`, if not null: which entries of each stack are kept, given how many
// there are; a rank with few of many does not pay for the others.
using EntryShare =
    std::function<absl::StatusOr<tensor::Range>(int64_t num_entries)>;
// `name_prefix` goes before the names of all. `memo`, if not null: of the same
// rules for other ranks of the layout.
absl::StatusOr<ExpandedTensors> ExpandStored(
    const std::vector<StoredRule>& rules, const Environment& environment,
    const EntryShare& share, const std::string& name_prefix, RuleMemo* memo);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_TABLE_EXPANDER_H_
