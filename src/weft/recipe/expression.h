// The integer expressions, ranges and name templates of recipe files. They are
// parsed once, with every name resolved, and evaluated for each rank and layer.
// The language: docs/formats/recipe.md. Private to this room.
#ifndef WEFT_RECIPE_EXPRESSION_H_
#define WEFT_RECIPE_EXPRESSION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/tensor/box.h"

namespace weft::recipe {

struct ExpertPlacement;

// The number that stands for a word of a config ("moe"): equal for equal words,
// never negative.
int64_t WordCode(std::string_view word);

// Values of the symbols in scope, by slot, and of the lists, by their number.
struct Environment {
  std::vector<int64_t> values;
  std::vector<std::vector<int64_t>> lists;
  // Which experts the rank holds, for placed(); null where there is no rank.
  // Outlives the environment.
  const ExpertPlacement* experts = nullptr;

  void Set(int slot, int64_t value) {
    const std::size_t at = static_cast<std::size_t>(slot);
    if (values.size() <= at) values.resize(at + 1);
    values[at] = value;
  }
};

// Names in scope while a file is parsed. A number has a slot, its position
// among the numbers; a list has its position among the lists; a text is known
// at once.
class Scope {
 public:
  // Gives the new name the next slot. kInvalidArgument if it is no
  // identifier, a word of the language, or in scope already.
  absl::StatusOr<int> Declare(std::string_view name);
  absl::Status DeclareList(std::string_view name);
  absl::Status DeclareText(std::string_view name, std::string text);
  std::optional<int> SlotOf(std::string_view name) const;
  std::optional<int> ListOf(std::string_view name) const;
  const std::string* TextOf(std::string_view name) const;
  // Drops the names from slot `size` on: the end of a loop.
  void Truncate(int size) { names_.resize(size); }
  int size() const { return static_cast<int>(names_.size()); }
  const std::vector<std::string>& names() const { return names_; }

 private:
  absl::Status CheckNew(std::string_view name) const;

  std::vector<std::string> names_;
  std::vector<std::string> lists_;
  std::map<std::string, std::string, std::less<>> texts_;
};

// Parsed text: a tree in an array, children before parents.
struct ExpressionCode;

// One integer. Conditions are integers too: 0 is false, comparisons and
// logical operators give 0 or 1.
class Expression {
 public:
  // `where` ("llama.yaml:12: rows") goes before every error message.
  // kInvalidArgument on bad syntax or a name that is not in scope.
  static absl::StatusOr<Expression> Parse(std::string_view text,
                                          const Scope& scope,
                                          std::string_view where);

  // kInvalidArgument on overflow, a divisor below 1, or a `/` with remainder.
  // Requires an environment that holds every slot of the scope.
  absl::StatusOr<int64_t> Evaluate(const Environment& environment) const;
  // Adds the slots that Evaluate may read.
  void AddSlots(std::set<int>& slots) const;

 private:
  std::shared_ptr<const ExpressionCode> code_;
  int root_ = 0;
};

// A half-open interval: `a .. b`, even(n, k, r), chunk(n, k, r), block(i, n).
class RangeExpression {
 public:
  static absl::StatusOr<RangeExpression> Parse(std::string_view text,
                                               const Scope& scope,
                                               std::string_view where);
  // kInvalidArgument as above, and when begin < 0 or end < begin.
  absl::StatusOr<tensor::Range> Evaluate(const Environment& environment) const;
  void AddSlots(std::set<int>& slots) const;

 private:
  enum class Kind { kInterval, kEven, kChunk, kBlock };
  absl::StatusOr<tensor::Range> Compute(int64_t a, int64_t b, int64_t c) const;

  Kind kind_ = Kind::kInterval;
  std::shared_ptr<const ExpressionCode> code_;
  absl::InlinedVector<int, 3> roots_;
};

// Integers in order: those of a range, or placed(num_experts, layer, groups):
// the experts that the rank holds of the MoE layer number `layer`, which lets
// choose among `groups` groups of experts (expert_placement.h).
class ListExpression {
 public:
  static absl::StatusOr<ListExpression> Parse(std::string_view text,
                                              const Scope& scope,
                                              std::string_view where);
  absl::StatusOr<std::vector<int64_t>> Evaluate(
      const Environment& environment) const;
  bool is_range() const { return range_.has_value(); }
  // Those of placed() read the rank's experts as well.
  void AddSlots(std::set<int>& slots) const;

 private:
  std::string where_;
  std::optional<RangeExpression> range_;
  std::shared_ptr<const ExpressionCode> code_;  // of placed
  absl::InlinedVector<int, 3> roots_;
};

// Text with expressions or names of texts in braces:
// "model.layers.{layer}.{block}.".
class Template {
 public:
  static absl::StatusOr<Template> Parse(std::string_view text,
                                        const Scope& scope,
                                        std::string_view where);
  absl::StatusOr<std::string> Evaluate(const Environment& environment) const;
  void AddSlots(std::set<int>& slots) const;

 private:
  struct Piece {
    std::string literal;
    std::optional<Expression> expression;  // follows the literal
  };
  std::vector<Piece> pieces_;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_EXPRESSION_H_
