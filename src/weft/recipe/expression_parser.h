// Text to ExpressionCode: the recursive descent behind expression.h. Private
// to this room.
#ifndef WEFT_RECIPE_EXPRESSION_PARSER_H_
#define WEFT_RECIPE_EXPRESSION_PARSER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/recipe/expression.h"

namespace weft::recipe {

enum class Operator {
  kConstant,  // value
  kSymbol,    // slot
  kIn,        // value in list; the list's number
  kLength,    // of a list; its number
  kCountOf,   // list, value, n: how many of its first n items are that
  kBelow,     // list, n: how many different numbers in it are in [0, n)
  kItem,      // of a list; its number; the position is the argument
  kOr,
  kAnd,
  kNot,
  kNegate,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kAdd,
  kSubtract,
  kMultiply,
  kExactDivide,
  kFloorDivide,
  kModulo,
  kMin,
  kMax,
  kCeilDiv,
  kAlign,
  kIf,
};

struct ExpressionNode {
  Operator op = Operator::kConstant;
  int64_t value = 0;  // the constant, the slot or the list
  absl::InlinedVector<int, 3> args;
};

struct ExpressionCode {
  std::vector<ExpressionNode> nodes;
  std::string text;
  std::string where;

  // kInvalidArgument: where, message and the text.
  absl::Status Fail(std::string_view message) const;
};

// True for a word that names an operator or a function.
bool IsReservedWord(std::string_view word);

class ExpressionParser {
 public:
  ExpressionParser(std::string_view text, const Scope& scope,
                   std::string_view where);

  // Parses one expression from the current position; the node's index.
  absl::StatusOr<int> ParseExpression();
  // If `text` comes next it is consumed. Words end at a word's end.
  bool Accept(std::string_view text);
  absl::Status Expect(std::string_view text);
  absl::Status ExpectEnd();
  ExpressionCode TakeCode() { return std::move(code_); }

 private:
  absl::StatusOr<int> ParseAnd();
  absl::StatusOr<int> ParseNot();
  absl::StatusOr<int> ParseComparison();
  absl::StatusOr<int> ParseSum();
  absl::StatusOr<int> ParseProduct();
  absl::StatusOr<int> ParseUnary();
  absl::StatusOr<int> ParsePrimary();
  absl::StatusOr<int> ParseInteger();
  absl::StatusOr<int> ParseCall(std::string_view name);
  absl::StatusOr<int> ParseListName();
  absl::StatusOr<int> ParseListCall(std::string_view name);
  absl::StatusOr<int> ParseWord();
  absl::Status FailUnknown(const std::string& word) const;
  void SkipSpaces();
  std::string_view PeekWord();
  int AddNode(Operator op, absl::InlinedVector<int, 3> args, int64_t value = 0);
  std::string_view Rest() const {
    return std::string_view(code_.text).substr(position_);
  }

  const Scope& scope_;
  ExpressionCode code_;
  std::size_t position_ = 0;
  int depth_ = 0;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_EXPRESSION_PARSER_H_
