#include "weft/recipe/expression.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/layout/mesh.h"
#include "weft/recipe/expert_placement.h"
#include "weft/recipe/expression_parser.h"

namespace weft::recipe {
namespace {

bool IsIdentifier(std::string_view name) {
  if (name.empty() ||
      absl::ascii_isdigit(static_cast<unsigned char>(name.front()))) {
    return false;
  }
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
  });
}

std::optional<int> PositionOf(std::string_view name,
                              const std::vector<std::string>& names) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<int>(found - names.begin());
}

// Quotient and remainder towards minus infinity, for b >= 1: indices below
// zero wrap as in the frameworks' own Python.
int64_t FloorDiv(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

class Evaluator {
 public:
  Evaluator(const ExpressionCode& code, const Environment& environment)
      : code_(code), environment_(environment) {}

  absl::StatusOr<int64_t> Value(int index) const {
    const ExpressionNode& node = code_.nodes[index];
    switch (node.op) {
      case Operator::kConstant:
        return node.value;
      case Operator::kSymbol:
        return environment_.values[node.value];
      case Operator::kIn: {
        WEFT_ASSIGN_OR_RETURN(const int64_t value, Value(node.args[0]));
        return absl::c_linear_search(environment_.lists[node.value], value) ? 1
                                                                            : 0;
      }
      case Operator::kLength:
        return static_cast<int64_t>(environment_.lists[node.value].size());
      case Operator::kItem: {
        WEFT_ASSIGN_OR_RETURN(const int64_t at, Value(node.args[0]));
        const std::vector<int64_t>& list = environment_.lists[node.value];
        if (at >= 0 && at < static_cast<int64_t>(list.size())) return list[at];
        return code_.Fail(absl::StrCat("position ", at, " is outside of a list",
                                       " of ", list.size()));
      }
      case Operator::kCountOf: {
        WEFT_ASSIGN_OR_RETURN(const int64_t value, Value(node.args[0]));
        WEFT_ASSIGN_OR_RETURN(const int64_t n, Value(node.args[1]));
        const std::vector<int64_t>& list = environment_.lists[node.value];
        const int64_t size = static_cast<int64_t>(list.size());
        return std::count(list.begin(),
                          list.begin() + std::clamp<int64_t>(n, 0, size),
                          value);
      }
      case Operator::kBelow: {
        WEFT_ASSIGN_OR_RETURN(const int64_t n, Value(node.args[0]));
        std::vector<int64_t> list = environment_.lists[node.value];
        std::sort(list.begin(), list.end());
        list.erase(std::unique(list.begin(), list.end()), list.end());
        return std::count_if(list.begin(), list.end(),
                             [n](int64_t i) { return 0 <= i && i < n; });
      }
      case Operator::kOr:
      case Operator::kAnd: {
        WEFT_ASSIGN_OR_RETURN(const int64_t left, Value(node.args[0]));
        const bool decided = (left != 0) == (node.op == Operator::kOr);
        if (decided) return left != 0 ? 1 : 0;
        WEFT_ASSIGN_OR_RETURN(const int64_t right, Value(node.args[1]));
        return right != 0 ? 1 : 0;
      }
      case Operator::kIf: {
        WEFT_ASSIGN_OR_RETURN(const int64_t condition, Value(node.args[0]));
        return Value(node.args[condition != 0 ? 1 : 2]);
      }
      case Operator::kNot: {
        WEFT_ASSIGN_OR_RETURN(const int64_t value, Value(node.args[0]));
        return value == 0 ? 1 : 0;
      }
      case Operator::kNegate: {
        WEFT_ASSIGN_OR_RETURN(const int64_t value, Value(node.args[0]));
        return Checked(base::CheckedMul(value, -1));
      }
      default: {
        WEFT_ASSIGN_OR_RETURN(const int64_t left, Value(node.args[0]));
        WEFT_ASSIGN_OR_RETURN(const int64_t right, Value(node.args[1]));
        return Binary(node.op, left, right);
      }
    }
  }

 private:
  absl::StatusOr<int64_t> Binary(Operator op, int64_t a, int64_t b) const {
    switch (op) {
      case Operator::kEqual:
        return a == b ? 1 : 0;
      case Operator::kNotEqual:
        return a != b ? 1 : 0;
      case Operator::kLess:
        return a < b ? 1 : 0;
      case Operator::kLessEqual:
        return a <= b ? 1 : 0;
      case Operator::kGreater:
        return a > b ? 1 : 0;
      case Operator::kGreaterEqual:
        return a >= b ? 1 : 0;
      case Operator::kMin:
        return std::min(a, b);
      case Operator::kMax:
        return std::max(a, b);
      case Operator::kAdd:
        return Checked(base::CheckedAdd(a, b));
      case Operator::kSubtract: {
        int64_t difference;
        if (__builtin_sub_overflow(a, b, &difference)) return Overflow();
        return difference;
      }
      case Operator::kMultiply:
        return Checked(base::CheckedMul(a, b));
      default:
        return Quotient(op, a, b);
    }
  }

  absl::StatusOr<int64_t> Quotient(Operator op, int64_t a, int64_t b) const {
    if (b < 1) {
      return code_.Fail(absl::StrCat("divisor ", b, " is not positive"));
    }
    const int64_t floor = FloorDiv(a, b);
    const int64_t remainder = a % b < 0 ? a % b + b : a % b;
    switch (op) {
      case Operator::kFloorDivide:
        return floor;
      case Operator::kModulo:
        return remainder;
      case Operator::kExactDivide:
        if (remainder == 0) return floor;
        return code_.Fail(
            absl::StrCat(a, " / ", b, " leaves remainder ", remainder));
      case Operator::kCeilDiv:
        return floor + (remainder != 0 ? 1 : 0);
      case Operator::kAlign:
        return Checked(base::CheckedMul(floor + (remainder != 0 ? 1 : 0), b));
      default:
        return absl::InternalError("operator without a rule");
    }
  }

  absl::StatusOr<int64_t> Checked(std::optional<int64_t> value) const {
    if (value) return *value;
    return Overflow();
  }
  absl::Status Overflow() const { return code_.Fail("64-bit overflow"); }

  const ExpressionCode& code_;
  const Environment& environment_;
};

// Text is parsed to code of its own, so all of it counts.
void AddSlotsOf(const ExpressionCode& code, std::set<int>& slots) {
  for (const ExpressionNode& node : code.nodes) {
    if (node.op == Operator::kSymbol)
      slots.insert(static_cast<int>(node.value));
  }
}

}  // namespace

int64_t WordCode(std::string_view word) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : word) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  return static_cast<int64_t>(hash >> 1);
}

absl::Status Scope::CheckNew(std::string_view name) const {
  const std::string text(name);
  if (!IsIdentifier(name) || IsReservedWord(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" cannot name a symbol"));
  }
  if (SlotOf(name) || ListOf(name) || TextOf(name) != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("symbol \"", text, "\" is defined already"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Scope::Declare(std::string_view name) {
  WEFT_RETURN_IF_ERROR(CheckNew(name));
  names_.emplace_back(name);
  return size() - 1;
}

absl::Status Scope::DeclareList(std::string_view name) {
  WEFT_RETURN_IF_ERROR(CheckNew(name));
  lists_.emplace_back(name);
  return absl::OkStatus();
}

absl::Status Scope::DeclareText(std::string_view name, std::string text) {
  WEFT_RETURN_IF_ERROR(CheckNew(name));
  texts_.emplace(name, std::move(text));
  return absl::OkStatus();
}

std::optional<int> Scope::SlotOf(std::string_view name) const {
  return PositionOf(name, names_);
}

std::optional<int> Scope::ListOf(std::string_view name) const {
  return PositionOf(name, lists_);
}

const std::string* Scope::TextOf(std::string_view name) const {
  const auto found = texts_.find(name);
  return found == texts_.end() ? nullptr : &found->second;
}

absl::StatusOr<Expression> Expression::Parse(std::string_view text,
                                             const Scope& scope,
                                             std::string_view where) {
  ExpressionParser parser(text, scope, where);
  Expression expression;
  WEFT_ASSIGN_OR_RETURN(expression.root_, parser.ParseExpression());
  WEFT_RETURN_IF_ERROR(parser.ExpectEnd());
  expression.code_ = std::make_shared<ExpressionCode>(parser.TakeCode());
  return expression;
}

absl::StatusOr<int64_t> Expression::Evaluate(
    const Environment& environment) const {
  return Evaluator(*code_, environment).Value(root_);
}

void Expression::AddSlots(std::set<int>& slots) const {
  AddSlotsOf(*code_, slots);
}

absl::StatusOr<RangeExpression> RangeExpression::Parse(std::string_view text,
                                                       const Scope& scope,
                                                       std::string_view where) {
  ExpressionParser parser(text, scope, where);
  RangeExpression range;
  std::size_t num_roots = 2;
  std::string_view separator = ",";
  if (parser.Accept("even")) {
    range.kind_ = Kind::kEven;
    num_roots = 3;
  } else if (parser.Accept("chunk")) {
    range.kind_ = Kind::kChunk;
    num_roots = 3;
  } else if (parser.Accept("block")) {
    range.kind_ = Kind::kBlock;
  } else {
    separator = "..";
  }
  const bool is_call = range.kind_ != Kind::kInterval;
  if (is_call) WEFT_RETURN_IF_ERROR(parser.Expect("("));
  for (std::size_t i = 0; i < num_roots; ++i) {
    if (i > 0) WEFT_RETURN_IF_ERROR(parser.Expect(separator));
    WEFT_ASSIGN_OR_RETURN(const int root, parser.ParseExpression());
    range.roots_.push_back(root);
  }
  if (is_call) WEFT_RETURN_IF_ERROR(parser.Expect(")"));
  WEFT_RETURN_IF_ERROR(parser.ExpectEnd());
  range.code_ = std::make_shared<ExpressionCode>(parser.TakeCode());
  return range;
}

absl::StatusOr<tensor::Range> RangeExpression::Evaluate(
    const Environment& environment) const {
  const Evaluator evaluator(*code_, environment);
  int64_t values[3] = {0, 0, 0};
  for (std::size_t i = 0; i < roots_.size(); ++i) {
    WEFT_ASSIGN_OR_RETURN(values[i], evaluator.Value(roots_[i]));
  }
  return Compute(values[0], values[1], values[2]);
}

void RangeExpression::AddSlots(std::set<int>& slots) const {
  AddSlotsOf(*code_, slots);
}

absl::StatusOr<tensor::Range> RangeExpression::Compute(int64_t a, int64_t b,
                                                       int64_t c) const {
  switch (kind_) {
    case Kind::kInterval:
      if (a < 0 || b < a) {
        return code_->Fail(absl::StrCat("[", a, ",", b, ") is no range"));
      }
      return tensor::Range{a, b};
    case Kind::kEven:
    case Kind::kChunk:
      if (a < 0 || b < 1 || c < 0 || c >= b) {
        return code_->Fail(
            absl::StrCat("share ", c, " of ", b, " of ", a, " does not exist"));
      }
      if (kind_ == Kind::kChunk) return layout::ChunkSplit(a, b, c);
      if (a % b != 0) {
        return code_->Fail(absl::StrCat(b, " does not divide ", a));
      }
      return layout::EvenSplit(a, b, c);
    case Kind::kBlock: {
      const std::optional<int64_t> begin = base::CheckedMul(a, b);
      if (a < 0 || b < 0 || !begin || !base::CheckedAdd(*begin, b)) {
        return code_->Fail(
            absl::StrCat("block ", a, " of size ", b, " is no range"));
      }
      return tensor::Range{*begin, *begin + b};
    }
  }
  return absl::InternalError("range without a rule");
}

// More layers, heads or experts than any model; stops a config with an absurd
// number before it fills the memory.
constexpr int64_t kMaxListLength = 65536;

absl::StatusOr<ListExpression> ListExpression::Parse(std::string_view text,
                                                     const Scope& scope,
                                                     std::string_view where) {
  ExpressionParser parser(text, scope, where);
  ListExpression list;
  list.where_ = std::string(where);
  if (!parser.Accept("placed")) {
    WEFT_ASSIGN_OR_RETURN(list.range_,
                          RangeExpression::Parse(text, scope, where));
    return list;
  }
  WEFT_RETURN_IF_ERROR(parser.Expect("("));
  for (int i = 0; i < 3; ++i) {
    if (i > 0) WEFT_RETURN_IF_ERROR(parser.Expect(","));
    WEFT_ASSIGN_OR_RETURN(const int root, parser.ParseExpression());
    list.roots_.push_back(root);
  }
  WEFT_RETURN_IF_ERROR(parser.Expect(")"));
  WEFT_RETURN_IF_ERROR(parser.ExpectEnd());
  list.code_ = std::make_shared<ExpressionCode>(parser.TakeCode());
  return list;
}

absl::StatusOr<std::vector<int64_t>> ListExpression::Evaluate(
    const Environment& environment) const {
  std::vector<int64_t> values;
  if (range_) {
    WEFT_ASSIGN_OR_RETURN(const tensor::Range range,
                          range_->Evaluate(environment));
    if (range.extent() > kMaxListLength) {
      return absl::InvalidArgumentError(
          absl::StrCat(where_, ": loop of ", range.extent(),
                       " rounds is longer than ", kMaxListLength));
    }
    for (int64_t i = range.begin; i < range.end; ++i) values.push_back(i);
    return values;
  }
  if (environment.experts == nullptr) {
    return code_->Fail("no rank's experts are placed here");
  }
  const Evaluator evaluator(*code_, environment);
  int64_t args[3] = {0, 0, 0};
  for (std::size_t i = 0; i < roots_.size(); ++i) {
    WEFT_ASSIGN_OR_RETURN(args[i], evaluator.Value(roots_[i]));
  }
  if (args[0] < 0 || args[0] > kMaxListLength) {
    return code_->Fail(absl::StrCat(args[0], " experts cannot be placed"));
  }
  return PlacedExperts(*environment.experts, args[0], args[1], args[2]);
}

void ListExpression::AddSlots(std::set<int>& slots) const {
  if (range_) {
    range_->AddSlots(slots);
  } else {
    AddSlotsOf(*code_, slots);
  }
}

absl::StatusOr<Template> Template::Parse(std::string_view text,
                                         const Scope& scope,
                                         std::string_view where) {
  Template result;
  const auto fail = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(where), ": braces do not match in \"",
                     std::string(text), "\""));
  };
  std::string_view rest = text;
  while (!rest.empty()) {
    Piece piece;
    const auto open = rest.find_first_of("{}");
    piece.literal = std::string(rest.substr(0, open));
    if (open == std::string_view::npos) {
      rest = {};
    } else {
      const auto close = rest.find_first_of("{}", open + 1);
      if (rest[open] != '{' || close == std::string_view::npos ||
          rest[close] != '}') {
        return fail();
      }
      const std::string_view inside = rest.substr(open + 1, close - open - 1);
      if (const std::string* const known = scope.TextOf(inside)) {
        piece.literal += *known;
      } else {
        WEFT_ASSIGN_OR_RETURN(piece.expression,
                              Expression::Parse(inside, scope, where));
      }
      rest.remove_prefix(close + 1);
    }
    result.pieces_.push_back(std::move(piece));
  }
  return result;
}

absl::StatusOr<std::string> Template::Evaluate(
    const Environment& environment) const {
  std::string text;
  for (const Piece& piece : pieces_) {
    text += piece.literal;
    if (!piece.expression) continue;
    WEFT_ASSIGN_OR_RETURN(const int64_t value,
                          piece.expression->Evaluate(environment));
    absl::StrAppend(&text, value);
  }
  return text;
}

void Template::AddSlots(std::set<int>& slots) const {
  for (const Piece& piece : pieces_) {
    if (piece.expression) piece.expression->AddSlots(slots);
  }
}

}  // namespace weft::recipe
