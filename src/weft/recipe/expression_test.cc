#include "weft/recipe/expression.h"

#include <rapidcheck.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace weft::recipe {
namespace {

using ::testing::HasSubstr;

constexpr char kWhere[] = "a.yaml:3: rows";

// Symbols a = 7, b = 3, zero = 0.
const Scope& AbScope() {
  static const auto* const kScope = [] {
    auto* const scope = new Scope;
    for (const char* name : {"a", "b", "zero"}) {
      EXPECT_TRUE(scope->Declare(name).ok());
    }
    return scope;
  }();
  return *kScope;
}
const Environment kAb{{7, 3, 0}, {}};

absl::StatusOr<int64_t> Evaluate(const std::string& text) {
  const auto expression = Expression::Parse(text, AbScope(), kWhere);
  if (!expression.ok()) return expression.status();
  return expression->Evaluate(kAb);
}

std::string Error(const std::string& text) {
  const auto value = Evaluate(text);
  EXPECT_FALSE(value.ok()) << text << " = " << *value;
  EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(value.status().message());
}

TEST(ExpressionTest, Arithmetic) {
  EXPECT_EQ(Evaluate("1").value(), 1);
  EXPECT_EQ(Evaluate("1 + 2 * 3").value(), 7);
  EXPECT_EQ(Evaluate("(1 + 2) * 3").value(), 9);
  EXPECT_EQ(Evaluate("10 - 4 - 3").value(), 3);
  EXPECT_EQ(Evaluate("a*b").value(), 21);
  EXPECT_EQ(Evaluate("-a + b").value(), -4);
  EXPECT_EQ(Evaluate("a // b").value(), 2);
  EXPECT_EQ(Evaluate("a % b").value(), 1);
  EXPECT_EQ(Evaluate("21 / a").value(), 3);
  EXPECT_EQ(Evaluate("24 / 2 / 3").value(), 4);
  EXPECT_EQ(Evaluate("2 * a // b").value(), 4);
}

TEST(ExpressionTest, DivisionRoundsDown) {
  EXPECT_EQ(Evaluate("-a // b").value(), -3);
  EXPECT_EQ(Evaluate("-a % b").value(), 2);
  EXPECT_EQ(Evaluate("ceildiv(a, b)").value(), 3);
  EXPECT_EQ(Evaluate("ceildiv(6, b)").value(), 2);
  EXPECT_EQ(Evaluate("ceildiv(-a, b)").value(), -2);
  EXPECT_EQ(Evaluate("align(a, b)").value(), 9);
  EXPECT_EQ(Evaluate("align(9, b)").value(), 9);
  EXPECT_EQ(Evaluate("align(zero, b)").value(), 0);
}

TEST(ExpressionTest, Conditions) {
  EXPECT_EQ(Evaluate("a > b and b > zero").value(), 1);
  EXPECT_EQ(Evaluate("a < b or b <= 3").value(), 1);
  EXPECT_EQ(Evaluate("not zero").value(), 1);
  EXPECT_EQ(Evaluate("not a and zero").value(), 0);
  EXPECT_EQ(Evaluate("not not a").value(), 1);
  EXPECT_EQ(Evaluate("a == 7").value(), 1);
  EXPECT_EQ(Evaluate("a != 7").value(), 0);
  EXPECT_EQ(Evaluate("a >= 8").value(), 0);
  EXPECT_EQ(Evaluate("a % b == 1 and a // b == 2").value(), 1);
  EXPECT_EQ(Evaluate("1 or zero and zero").value(), 1);
  EXPECT_EQ(Evaluate("min(a, b) + max(a, b)").value(), 10);
  EXPECT_EQ(Evaluate("if(a > b, 1, 2)").value(), 1);
  EXPECT_EQ(Evaluate("if(zero, 1, 2)").value(), 2);
}

TEST(ExpressionTest, OnlyTheNeededSideIsEvaluated) {
  EXPECT_EQ(Evaluate("zero and a / zero").value(), 0);
  EXPECT_EQ(Evaluate("a or a / zero").value(), 1);
  EXPECT_EQ(Evaluate("if(a, 1, a / zero)").value(), 1);
}

TEST(ExpressionTest, WordsEndWhereTheyEnd) {
  Scope scope;
  ASSERT_TRUE(scope.Declare("order").ok());
  ASSERT_TRUE(scope.Declare("notes").ok());
  const auto expression =
      Expression::Parse("order or notes", scope, kWhere).value();
  EXPECT_EQ(expression.Evaluate({{0, 5}, {}}).value(), 1);
}

TEST(ExpressionTest, Lists) {
  Scope scope;
  ASSERT_TRUE(scope.Declare("layer").ok());
  ASSERT_TRUE(scope.DeclareList("empty").ok());
  ASSERT_TRUE(scope.DeclareList("dense").ok());
  const auto value = [&](const std::string& text, int64_t layer) {
    return Expression::Parse(text, scope, kWhere)
        .value()
        .Evaluate({{layer}, {{}, {0, 3, 3}}})
        .value();
  };
  EXPECT_EQ(value("layer in dense", 3), 1);
  EXPECT_EQ(value("layer in dense", 2), 0);
  EXPECT_EQ(value("not layer + 1 in dense and 1", 2), 0);
  EXPECT_EQ(value("layer in empty", 0), 0);
  EXPECT_EQ(value("len(dense) * 10 + len(empty)", 0), 30);
  EXPECT_EQ(value("dense[layer] + dense[0]", 2), 3);
  EXPECT_EQ(value("count(dense, 3, 2) * 10 + count(dense, 3, 9)", 0), 12);
  EXPECT_EQ(value("count(dense, 3, 0 - 1) + count(empty, 0, 1)", 0), 0);
  EXPECT_EQ(value("below(dense, 3) * 10 + below(dense, 4)", 0), 12);
  EXPECT_EQ(value("'a' == 'a' and 'a' != 'b' and 'a' > 0", 0), 1);
  const auto error = [&](const std::string& text) {
    return std::string(
        Expression::Parse(text, scope, kWhere).status().message());
  };
  EXPECT_EQ(error("dense + 1"),
            "a.yaml:3: rows: \"dense\" is a list; ask \"i in dense\", "
            "\"len(dense)\" or \"dense[i]\" in \"dense + 1\"");
  EXPECT_THAT(error("1 in layer"),
              HasSubstr("expected the name of a list at column 6"));
  EXPECT_THAT(error("len(layer)"), HasSubstr("the name of a list"));
  EXPECT_THAT(error("in"), HasSubstr("cannot stand"));
  EXPECT_THAT(error("dense[1"), HasSubstr("expected \"]\""));
  EXPECT_THAT(error("count(layer, 1, 1)"), HasSubstr("the name of a list"));
  EXPECT_THAT(error("below(dense)"), HasSubstr("expected \",\""));
  EXPECT_THAT(error("'a"), HasSubstr("a word in quotes does not end"));
  EXPECT_THAT(error("''"), HasSubstr("or is empty"));
}

TEST(ExpressionTest, RunTimeErrorsNameThePlace) {
  EXPECT_EQ(Error("a / b"),
            "a.yaml:3: rows: 7 / 3 leaves remainder 1 in \"a / b\"");
  EXPECT_THAT(Error("a // zero"), HasSubstr("divisor 0 is not positive"));
  EXPECT_THAT(Error("a % (b - 4)"), HasSubstr("divisor -1 is not positive"));
  EXPECT_THAT(Error("9223372036854775807 + 1"), HasSubstr("overflow"));
  EXPECT_THAT(Error("-9223372036854775807 - 2"), HasSubstr("overflow"));
  EXPECT_THAT(Error("4611686018427387904 * 2"), HasSubstr("overflow"));
  EXPECT_THAT(Error("align(9223372036854775807, 2)"), HasSubstr("overflow"));
}

TEST(ExpressionTest, LowestNumberDividesWithoutOverflow) {
  EXPECT_EQ(Evaluate("(-9223372036854775807 - 1) // 3").value(),
            -3074457345618258603);
  EXPECT_EQ(Evaluate("(-9223372036854775807 - 1) % 3").value(), 1);
}

TEST(ExpressionTest, SyntaxErrorsNameThePlace) {
  EXPECT_EQ(Error("a + tpp"),
            "a.yaml:3: rows: unknown symbol \"tpp\" (known are a, b, zero) in "
            "\"a + tpp\"");
  EXPECT_THAT(Error(""), HasSubstr("expected a value at column 1"));
  EXPECT_THAT(Error("a +"), HasSubstr("expected a value at column 4"));
  EXPECT_THAT(Error("(a"), HasSubstr("expected \")\" at column 3"));
  EXPECT_THAT(Error("a b"), HasSubstr("unexpected \"b\" at column 3"));
  EXPECT_THAT(Error("min(a)"), HasSubstr("expected \",\""));
  EXPECT_THAT(Error("a < b < 3"), HasSubstr("unexpected"));
  EXPECT_THAT(Error("even(a, 1, 0)"), HasSubstr("cannot stand"));
  EXPECT_THAT(Error("3x"), HasSubstr("no 64-bit integer"));
  EXPECT_THAT(Error("99999999999999999999"), HasSubstr("no 64-bit integer"));
  EXPECT_THAT(Error(std::string(5000, '(')), HasSubstr("too long or too deep"));
  EXPECT_THAT(Error(std::string(1000, '(') + "1"),
              HasSubstr("too long or too deep"));
}

TEST(ScopeTest, NamesAreIdentifiersAndUnique) {
  Scope scope;
  EXPECT_EQ(scope.Declare("x").value(), 0);
  EXPECT_EQ(scope.Declare("y_2").value(), 1);
  EXPECT_FALSE(scope.Declare("x").ok());
  EXPECT_FALSE(scope.Declare("2x").ok());
  EXPECT_FALSE(scope.Declare("").ok());
  EXPECT_FALSE(scope.Declare("a-b").ok());
  EXPECT_FALSE(scope.Declare("and").ok());
  EXPECT_FALSE(scope.Declare("even").ok());
  EXPECT_FALSE(scope.DeclareList("in").ok());
  EXPECT_TRUE(scope.DeclareList("list").ok());
  EXPECT_TRUE(scope.DeclareText("text", "t").ok());
  EXPECT_FALSE(scope.Declare("list").ok());
  EXPECT_FALSE(scope.DeclareList("text").ok());
  EXPECT_FALSE(scope.DeclareText("x", "t").ok());
  scope.Truncate(1);
  EXPECT_FALSE(scope.SlotOf("y_2").has_value());
  EXPECT_EQ(scope.Declare("z").value(), 1);
}

absl::StatusOr<tensor::Range> Range(const std::string& text) {
  const auto range = RangeExpression::Parse(text, AbScope(), kWhere);
  if (!range.ok()) return range.status();
  return range->Evaluate(kAb);
}

TEST(RangeExpressionTest, Forms) {
  EXPECT_EQ(Range("0 .. a").value(), (tensor::Range{0, 7}));
  EXPECT_EQ(Range("b..a - 1").value(), (tensor::Range{3, 6}));
  EXPECT_EQ(Range("even(12, b, 1)").value(), (tensor::Range{4, 8}));
  EXPECT_EQ(Range("chunk(10, 4, 3)").value(), (tensor::Range{9, 10}));
  EXPECT_EQ(Range("chunk(5, 4, 3)").value(), (tensor::Range{5, 5}));
  EXPECT_EQ(Range("block(2, a)").value(), (tensor::Range{14, 21}));
}

TEST(RangeExpressionTest, Errors) {
  const auto error = [](const std::string& text) {
    return std::string(Range(text).status().message());
  };
  EXPECT_THAT(error("a .. b"), HasSubstr("[7,3) is no range"));
  EXPECT_THAT(error("-1 .. b"), HasSubstr("[-1,3) is no range"));
  EXPECT_THAT(error("even(a, b, 0)"), HasSubstr("3 does not divide 7"));
  EXPECT_THAT(error("even(6, b, 3)"), HasSubstr("share 3 of 3 of 6"));
  EXPECT_THAT(error("chunk(6, zero, 0)"), HasSubstr("share 0 of 0 of 6"));
  EXPECT_THAT(error("block(9223372036854775807, 2)"), HasSubstr("no range"));
  EXPECT_THAT(error("block(1, 9223372036854775807)"), HasSubstr("no range"));
  EXPECT_THAT(error("a"), HasSubstr("expected \"..\""));
  EXPECT_THAT(error("even(a, b)"), HasSubstr("expected \",\""));
  EXPECT_THAT(error("a .. b .. a"), HasSubstr("unexpected"));
}

TEST(TemplateTest, Texts) {
  Scope scope;
  ASSERT_TRUE(scope.Declare("layer").ok());
  ASSERT_TRUE(scope.DeclareText("moe_block", "mlp").ok());
  EXPECT_EQ(Template::Parse("{layer}.{moe_block}.{moe_block}", scope, kWhere)
                .value()
                .Evaluate({{4}, {}})
                .value(),
            "4.mlp.mlp");
  EXPECT_THAT(
      std::string(
          Template::Parse("{moe_block + 1}", scope, kWhere).status().message()),
      HasSubstr("\"moe_block\" is a text"));
}

TEST(TemplateTest, Braces) {
  const auto text = [](const std::string& source) {
    return Template::Parse(source, AbScope(), kWhere).value().Evaluate(kAb);
  };
  EXPECT_EQ(text("plain").value(), "plain");
  EXPECT_EQ(text("").value(), "");
  EXPECT_EQ(text("layers.{a - b}.x").value(), "layers.4.x");
  EXPECT_EQ(text("{a}{b}").value(), "73");
  EXPECT_FALSE(text("{a / b}").ok());
  for (const char* bad : {"{a", "a}", "{a{b}}", "{}", "{c}"}) {
    const auto parsed = Template::Parse(bad, AbScope(), kWhere);
    ASSERT_FALSE(parsed.ok()) << bad;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(kWhere));
  }
}

// A random tree printed with all its brackets, and its value by wide
// arithmetic beside it.
__extension__ typedef __int128 Wide;
struct Tree {
  std::string text;
  Wide value = 0;
  bool defined = true;
};

Tree RandomTree(int depth) {
  if (depth == 0 || *rc::gen::inRange(0, 4) == 0) {
    const int value = *rc::gen::inRange(0, 1000);
    return {absl::StrCat(value), value, true};
  }
  const Tree left = RandomTree(depth - 1), right = RandomTree(depth - 1);
  Tree tree;
  tree.defined = left.defined && right.defined;
  const int op = *rc::gen::inRange(0, 6);
  static constexpr const char* kOps[] = {"+", "-", "*", "//", "%", "<"};
  tree.text = absl::StrCat("(", left.text, " ", kOps[op], " ", right.text, ")");
  Wide quotient = 0;
  if (op == 3 || op == 4) {
    if (right.value < 1) {
      tree.defined = false;
      return tree;
    }
    quotient = left.value / right.value;
    if (quotient * right.value > left.value) --quotient;
  }
  if (op == 0) tree.value = left.value + right.value;
  if (op == 1) tree.value = left.value - right.value;
  if (op == 2) tree.value = left.value * right.value;
  if (op == 3) tree.value = quotient;
  if (op == 4) tree.value = left.value - quotient * right.value;
  if (op == 5) tree.value = left.value < right.value ? 1 : 0;
  // Past this the wide value itself could overflow one level further up.
  const Wide limit = static_cast<Wide>(1) << 62;
  if (tree.value >= limit || tree.value <= -limit) tree.defined = false;
  return tree;
}

TEST(ExpressionTest, RandomTrees) {
  ASSERT_TRUE(rc::check("random trees", [] {
    const Tree tree = RandomTree(4);
    if (!tree.defined) return;
    RC_LOG() << tree.text << "\n";
    const auto value = Evaluate(tree.text);
    RC_ASSERT(value.ok());
    RC_ASSERT(static_cast<Wide>(*value) == tree.value);
  }));
}

TEST(ExpressionTest, RandomBytesNeverCrash) {
  ASSERT_TRUE(rc::check("random bytes", [] {
    const auto text = *rc::gen::container<std::string>(
        rc::gen::elementOf(std::string("ab01(){}.,+-*/%<>=! nortdif\n\0", 28)));
    (void)Evaluate(text);
    (void)Range(text);
    (void)Template::Parse(text, AbScope(), kWhere);
  }));
}

}  // namespace
}  // namespace weft::recipe
