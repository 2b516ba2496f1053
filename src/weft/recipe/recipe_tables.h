// A parsed recipe file: plain data, every name resolved to a slot. Private to
// this room; the language is described in docs/formats/recipe.md.
#ifndef WEFT_RECIPE_RECIPE_TABLES_H_
#define WEFT_RECIPE_RECIPE_TABLES_H_

#include <optional>
#include <string>
#include <vector>

#include "weft/recipe/expression.h"
#include "weft/recipe/fsdp_layout.h"

namespace weft::recipe {

// A symbol that comes from config.json. It takes the slot of its position in
// RecipeTables::config.
struct ConfigSymbol {
  enum class Kind { kNumber, kFlag, kValue };
  Kind kind = Kind::kNumber;
  // Field of config.json, empty for kValue, and the names that it has had
  // elsewhere, of which the first that is there counts.
  std::string key;
  std::vector<std::string> other_keys;
  // kValue: the value. Else: what an absent field stands for, if anything.
  std::optional<Expression> value;
};

struct Requirement {
  Expression that;
  Template otherwise;  // the sentence for a person
};

// A derived symbol.
struct Let {
  int slot = 0;
  Expression value;
};

struct Loop {
  int slot = 0;
  RangeExpression range;
  std::string where;
};

// A symbol that comes from a list of integers in config.json; an absent field
// is the empty list. Its position in RecipeTables::lists is its number.
struct ConfigList {
  std::string key;
};

// What every rule of a list may carry.
struct Guard {
  std::optional<Expression> when;
  std::optional<Loop> loop;
};

// A tensor of the checkpoint, or (with children) a group of them.
struct LogicalRule {
  Guard guard;
  std::vector<Let> lets;  // of a group: evaluated anew in each round
  Template prefix;        // of a group: goes before the names of the children
  std::vector<LogicalRule> children;
  bool is_group = false;
  Template name;
  std::vector<Expression> shape;
  TpCut tp = TpCut::kNone;
  std::string where;
};

// One part of a concatenation along dimension 0: rows and columns of a logical
// tensor, rows of zeros, or (with children) a repeated concatenation.
struct PartRule {
  Guard guard;
  std::vector<PartRule> children;
  bool is_group = false;
  Template of;
  std::optional<RangeExpression> rows;
  std::optional<RangeExpression> columns;
  std::optional<Expression> zero_rows;
  std::string where;
};

// A stored tensor, or (with children) a group of them. With `stack` the parts
// say what one entry along a leading dimension holds.
struct StoredRule {
  Guard guard;
  std::vector<Let> lets;
  Template prefix;
  Template of_prefix;
  std::vector<StoredRule> children;
  bool is_group = false;
  Template name;
  std::optional<Loop> stack;
  std::vector<PartRule> parts;
  std::optional<RangeExpression> cut;
  std::string where;
};

// What one framework stores. Slots after the config's: the framework's own
// symbols (FrameworkSymbols), the lets, the loop variables.
struct FrameworkTable {
  std::vector<Requirement> requirements;
  std::vector<Let> lets;
  std::vector<StoredRule> tensors;
};

struct RecipeTables {
  std::string file;
  std::string family;
  std::vector<std::string> architectures;
  std::vector<ConfigSymbol> config;
  std::vector<ConfigList> lists;
  std::vector<Requirement> requirements;
  Expression layers;
  std::vector<LogicalRule> checkpoint;
  std::vector<LogicalRule> ignore;  // names only
  // What transformers holds in memory in place of the tensors that it is made
  // of, whole; empty if memory is as the file.
  std::vector<StoredRule> memory;
  std::optional<FrameworkTable> megatron;
  std::optional<FrameworkTable> vllm;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_RECIPE_TABLES_H_
