// What rules came to on other ranks of a layout. A rule that sees the same
// values comes to the same, and most see few coordinates of a rank: attention
// its tp_rank, norms none. Private to this room.
#ifndef WEFT_RECIPE_RULE_MEMO_H_
#define WEFT_RECIPE_RULE_MEMO_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "weft/recipe/recipe_tables.h"
#include "weft/recipe/table_expander.h"

namespace weft::recipe {

// Of the rules of one framework and one checkpoint. Not thread-safe.
class RuleMemo {
 public:
  // Where the tensor is or is to be put (null until then) that `rule`, which is
  // no group, comes to below these prefixes. Valid until the next call.
  // nullptr if nothing is remembered: the rule asks which experts the rank
  // holds, which is another answer on each.
  std::shared_ptr<ExpandedTensor>* Find(const StoredRule& rule,
                                        const std::string& prefix,
                                        const std::string& of_prefix,
                                        const Environment& environment);

  // How many tensors the last rank had: the next has about as many.
  std::size_t last_size() const { return last_size_; }
  void set_last_size(std::size_t size) { last_size_ = size; }

 private:
  struct OfRule {
    bool places_experts = false;
    std::vector<int> slots;  // of the environment, that the rule reads
    absl::flat_hash_map<std::string, std::shared_ptr<ExpandedTensor>> by_values;
  };

  absl::flat_hash_map<const StoredRule*, std::unique_ptr<OfRule>> rules_;
  std::string key_;
  std::size_t last_size_ = 0;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_RULE_MEMO_H_
