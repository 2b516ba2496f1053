#include "weft/recipe/expression_parser.h"

#include <array>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "weft/base/status.h"

namespace weft::recipe {
namespace {

// Far above what a person writes; keeps hostile text off the stack's end.
constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxTextBytes = 4096;

struct Function {
  std::string_view name;
  Operator op;
  int num_args;
};

constexpr std::array<Function, 5> kFunctions{
    {{"min", Operator::kMin, 2},
     {"max", Operator::kMax, 2},
     {"ceildiv", Operator::kCeilDiv, 2},
     {"align", Operator::kAlign, 2},
     {"if", Operator::kIf, 3}}};

constexpr std::array<std::string_view, 11> kOtherWords{
    "and",   "or",   "not",   "in",    "len",   "count",
    "below", "even", "chunk", "block", "placed"};

bool IsWordByte(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
}

}  // namespace

bool IsReservedWord(std::string_view word) {
  for (const Function& function : kFunctions) {
    if (function.name == word) return true;
  }
  for (const std::string_view other : kOtherWords) {
    if (other == word) return true;
  }
  return false;
}

absl::Status ExpressionCode::Fail(std::string_view message) const {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": ", std::string(message), " in \"", text, "\""));
}

ExpressionParser::ExpressionParser(std::string_view text, const Scope& scope,
                                   std::string_view where)
    : scope_(scope) {
  code_.text = std::string(text);
  code_.where = std::string(where);
}

void ExpressionParser::SkipSpaces() {
  while (
      position_ < code_.text.size() &&
      absl::ascii_isspace(static_cast<unsigned char>(code_.text[position_]))) {
    ++position_;
  }
}

std::string_view ExpressionParser::PeekWord() {
  SkipSpaces();
  const std::string_view rest = Rest();
  std::size_t length = 0;
  while (length < rest.size() && IsWordByte(rest[length])) ++length;
  return rest.substr(0, length);
}

bool ExpressionParser::Accept(std::string_view text) {
  SkipSpaces();
  if (IsWordByte(text.front())) {
    if (PeekWord() != text) return false;
  } else if (Rest().substr(0, text.size()) != text) {
    return false;
  }
  position_ += text.size();
  return true;
}

absl::Status ExpressionParser::Expect(std::string_view text) {
  if (Accept(text)) return absl::OkStatus();
  return code_.Fail(absl::StrCat("expected \"", std::string(text),
                                 "\" at column ", position_ + 1));
}

absl::Status ExpressionParser::ExpectEnd() {
  SkipSpaces();
  if (position_ == code_.text.size()) return absl::OkStatus();
  return code_.Fail(absl::StrCat("unexpected \"", std::string(Rest()),
                                 "\" at column ", position_ + 1));
}

int ExpressionParser::AddNode(Operator op, absl::InlinedVector<int, 3> args,
                              int64_t value) {
  code_.nodes.push_back({op, value, std::move(args)});
  return static_cast<int>(code_.nodes.size()) - 1;
}

absl::StatusOr<int> ExpressionParser::ParseExpression() {
  if (code_.text.size() > kMaxTextBytes || depth_ >= kMaxDepth) {
    return code_.Fail("expression is too long or too deep");
  }
  ++depth_;
  WEFT_ASSIGN_OR_RETURN(int left, ParseAnd());
  while (Accept("or")) {
    WEFT_ASSIGN_OR_RETURN(const int right, ParseAnd());
    left = AddNode(Operator::kOr, {left, right});
  }
  --depth_;
  return left;
}

absl::StatusOr<int> ExpressionParser::ParseAnd() {
  WEFT_ASSIGN_OR_RETURN(int left, ParseNot());
  while (Accept("and")) {
    WEFT_ASSIGN_OR_RETURN(const int right, ParseNot());
    left = AddNode(Operator::kAnd, {left, right});
  }
  return left;
}

absl::StatusOr<int> ExpressionParser::ParseNot() {
  int num_nots = 0;
  while (Accept("not")) ++num_nots;
  WEFT_ASSIGN_OR_RETURN(int node, ParseComparison());
  for (; num_nots > 0; --num_nots) node = AddNode(Operator::kNot, {node});
  return node;
}

absl::StatusOr<int> ExpressionParser::ParseComparison() {
  // Two-byte operators first, since "<" begins "<=" too.
  static constexpr std::array<std::pair<std::string_view, Operator>, 6> kOps{
      {{"==", Operator::kEqual},
       {"!=", Operator::kNotEqual},
       {"<=", Operator::kLessEqual},
       {">=", Operator::kGreaterEqual},
       {"<", Operator::kLess},
       {">", Operator::kGreater}}};
  WEFT_ASSIGN_OR_RETURN(const int left, ParseSum());
  if (Accept("in")) {
    WEFT_ASSIGN_OR_RETURN(const int list, ParseListName());
    return AddNode(Operator::kIn, {left}, list);
  }
  for (const auto& [text, op] : kOps) {
    if (!Accept(text)) continue;
    WEFT_ASSIGN_OR_RETURN(const int right, ParseSum());
    return AddNode(op, {left, right});
  }
  return left;
}

absl::StatusOr<int> ExpressionParser::ParseSum() {
  WEFT_ASSIGN_OR_RETURN(int left, ParseProduct());
  while (true) {
    Operator op;
    if (Accept("+")) {
      op = Operator::kAdd;
    } else if (Accept("-")) {
      op = Operator::kSubtract;
    } else {
      return left;
    }
    WEFT_ASSIGN_OR_RETURN(const int right, ParseProduct());
    left = AddNode(op, {left, right});
  }
}

absl::StatusOr<int> ExpressionParser::ParseProduct() {
  WEFT_ASSIGN_OR_RETURN(int left, ParseUnary());
  while (true) {
    Operator op;
    if (Accept("*")) {
      op = Operator::kMultiply;
    } else if (Accept("//")) {
      op = Operator::kFloorDivide;
    } else if (Accept("/")) {
      op = Operator::kExactDivide;
    } else if (Accept("%")) {
      op = Operator::kModulo;
    } else {
      return left;
    }
    WEFT_ASSIGN_OR_RETURN(const int right, ParseUnary());
    left = AddNode(op, {left, right});
  }
}

absl::StatusOr<int> ExpressionParser::ParseUnary() {
  bool negate = false;
  while (Accept("-")) negate = !negate;
  WEFT_ASSIGN_OR_RETURN(const int node, ParsePrimary());
  return negate ? AddNode(Operator::kNegate, {node}) : node;
}

absl::StatusOr<int> ExpressionParser::ParsePrimary() {
  if (Accept("(")) {
    WEFT_ASSIGN_OR_RETURN(const int node, ParseExpression());
    WEFT_RETURN_IF_ERROR(Expect(")"));
    return node;
  }
  if (Accept("'")) return ParseWord();
  const std::string word(PeekWord());
  if (word.empty()) {
    return code_.Fail(
        absl::StrCat("expected a value at column ", position_ + 1));
  }
  if (absl::ascii_isdigit(static_cast<unsigned char>(word.front()))) {
    return ParseInteger();
  }
  if (IsReservedWord(word)) return ParseCall(word);
  const std::optional<int> slot = scope_.SlotOf(word);
  if (slot) {
    position_ += word.size();
    return AddNode(Operator::kSymbol, {}, *slot);
  }
  const std::optional<int> list = scope_.ListOf(word);
  if (!list) return FailUnknown(word);
  const std::size_t begin = position_;
  position_ += word.size();
  if (!Accept("[")) {
    position_ = begin;
    return FailUnknown(word);
  }
  WEFT_ASSIGN_OR_RETURN(const int index, ParseExpression());
  WEFT_RETURN_IF_ERROR(Expect("]"));
  return AddNode(Operator::kItem, {index}, *list);
}

// After the opening quote: 'moe' is the integer that stands for this word.
absl::StatusOr<int> ExpressionParser::ParseWord() {
  const auto close = Rest().find('\'');
  if (close == std::string_view::npos || close == 0) {
    return code_.Fail("a word in quotes does not end or is empty");
  }
  const int64_t code = WordCode(Rest().substr(0, close));
  position_ += close + 1;
  return AddNode(Operator::kConstant, {}, code);
}

absl::Status ExpressionParser::FailUnknown(const std::string& word) const {
  if (scope_.ListOf(word)) {
    return code_.Fail(absl::StrCat("\"", word, "\" is a list; ask \"i in ",
                                   word, "\", \"len(", word, ")\" or \"", word,
                                   "[i]\""));
  }
  if (scope_.TextOf(word) != nullptr) {
    return code_.Fail(absl::StrCat(
        "\"", word, "\" is a text; it stands alone in braces: {", word, "}"));
  }
  return code_.Fail(absl::StrCat("unknown symbol \"", word, "\" (known are ",
                                 absl::StrJoin(scope_.names(), ", "), ")"));
}

absl::StatusOr<int> ExpressionParser::ParseListName() {
  const std::string word(PeekWord());
  const std::optional<int> list = scope_.ListOf(word);
  if (!list) {
    return code_.Fail(
        absl::StrCat("expected the name of a list at column ", position_ + 1));
  }
  position_ += word.size();
  return *list;
}

absl::StatusOr<int> ExpressionParser::ParseInteger() {
  const std::string word(PeekWord());
  int64_t value = 0;
  if (!absl::SimpleAtoi(word, &value)) {
    return code_.Fail(absl::StrCat("\"", word, "\" is no 64-bit integer"));
  }
  position_ += word.size();
  return AddNode(Operator::kConstant, {}, value);
}

absl::StatusOr<int> ExpressionParser::ParseCall(std::string_view name) {
  for (const Function& function : kFunctions) {
    if (function.name != name) continue;
    position_ += name.size();
    WEFT_RETURN_IF_ERROR(Expect("("));
    absl::InlinedVector<int, 3> args;
    for (int i = 0; i < function.num_args; ++i) {
      if (i > 0) WEFT_RETURN_IF_ERROR(Expect(","));
      WEFT_ASSIGN_OR_RETURN(const int arg, ParseExpression());
      args.push_back(arg);
    }
    WEFT_RETURN_IF_ERROR(Expect(")"));
    return AddNode(function.op, std::move(args));
  }
  if (name == "len") {
    position_ += name.size();
    WEFT_RETURN_IF_ERROR(Expect("("));
    WEFT_ASSIGN_OR_RETURN(const int list, ParseListName());
    WEFT_RETURN_IF_ERROR(Expect(")"));
    return AddNode(Operator::kLength, {}, list);
  }
  if (name == "count" || name == "below") return ParseListCall(name);
  return code_.Fail(absl::StrCat("\"", std::string(name),
                                 "\" cannot stand where a value is expected"));
}

// count(LIST, VALUE, N) and below(LIST, N).
absl::StatusOr<int> ExpressionParser::ParseListCall(std::string_view name) {
  position_ += name.size();
  WEFT_RETURN_IF_ERROR(Expect("("));
  WEFT_ASSIGN_OR_RETURN(const int list, ParseListName());
  const std::size_t num_args = name == "count" ? 2 : 1;
  absl::InlinedVector<int, 3> args;
  while (args.size() < num_args) {
    WEFT_RETURN_IF_ERROR(Expect(","));
    WEFT_ASSIGN_OR_RETURN(const int arg, ParseExpression());
    args.push_back(arg);
  }
  WEFT_RETURN_IF_ERROR(Expect(")"));
  return AddNode(num_args == 2 ? Operator::kCountOf : Operator::kBelow,
                 std::move(args), list);
}

}  // namespace weft::recipe
