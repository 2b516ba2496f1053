// A parsed recipe file: plain data, every name resolved to a slot. Private to
// this room; the language is described in docs/formats/recipe.md.
#ifndef WEFT_RECIPE_RECIPE_TABLES_H_
#define WEFT_RECIPE_RECIPE_TABLES_H_

#include <optional>
#include <string>
#include <vector>

#include "weft/recipe/expression.h"
#include "weft/recipe/fsdp_layout.h"
#include "weft/tensor/conversion.h"
#include "weft/tensor/dtype.h"

namespace weft::recipe {

// A symbol that comes from config.json or from the checkpoint. It takes the
// slot of its position in RecipeTables::config.
struct ConfigSymbol {
  // A number is positive, a count may be 0.
  enum class Kind { kNumber, kCount, kFlag, kValue, kPresent };
  Kind kind = Kind::kNumber;
  // Field of config.json, empty for kValue and kPresent, and the names that it
  // has had elsewhere, of which the first that is there counts.
  std::string key;
  std::vector<std::string> other_keys;
  // kValue: the value. Else: what an absent field stands for, if anything.
  std::optional<Expression> value;
  // kPresent: 1 if the checkpoint has a tensor of this name.
  Template witness;
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
  ListExpression values;
  std::string where;
};

// A symbol that comes from a list of integers or words in config.json; an
// absent field is the empty list. Its position in RecipeTables::lists is its
// number.
struct ConfigList {
  std::vector<std::string> keys;  // the first that is there counts
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
  bool memory = true;  // of a group: false if transformers does not load it
  Template name;
  std::vector<Expression> shape;
  TpCut tp = TpCut::kNone;
  // What the file holds it in whatever the config says, and no layout changes.
  std::optional<tensor::DType> dtype;
  // A quantised checkpoint has it as F8_E4M3, with scales beside.
  bool quant = false;
  bool shard = true;  // false: FSDP does not cut it
  Template copy_of;  // of one that is ignored: what it must equal; may be empty
  std::string where;
};

// One part of a concatenation along dimension 0: rows and columns of a logical
// tensor, rows of zeros, or (with children) a repeated concatenation. First
// `index` takes one entry of the leading dimension, then `transpose` turns it,
// then rows and columns are cut, then the rows are dealt into `ways`.
struct PartRule {
  Guard guard;
  std::vector<PartRule> children;
  bool is_group = false;
  Template of;
  std::optional<Expression> index;
  bool transpose = false;
  std::optional<RangeExpression> rows;
  std::optional<RangeExpression> columns;
  std::optional<Expression> ways;  // deinterleave
  std::optional<Expression> unit;  // rows that stay together in it
  std::optional<Expression> zero_rows;
  std::optional<Expression> zero_columns;
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
  // What the framework keeps it in whatever the layout says.
  std::optional<tensor::DType> dtype;
  tensor::Transform transform = tensor::Transform::kNone;
  bool quant = false;  // held quantised where the layout says quant=
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
  std::vector<LogicalRule> ignore;               // names only
  std::vector<Requirement> memory_requirements;  // of fsdp with names=memory
  // What transformers holds in memory in place of the tensors that it is made
  // of, whole; empty if memory is as the file.
  std::vector<StoredRule> memory;
  std::optional<FrameworkTable> megatron;
  std::optional<FrameworkTable> vllm;
  std::optional<FrameworkTable> sglang;
};

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_RECIPE_TABLES_H_
