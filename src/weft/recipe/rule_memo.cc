#include "weft/recipe/rule_memo.h"

#include <cstdint>
#include <set>
#include <utility>

namespace weft::recipe {
namespace {

// The slots that a rule reads of what is set when it is reached: all but those
// that its own loops set.
class SlotReader {
 public:
  void AddRule(const StoredRule& rule) {
    rule.name.AddSlots(slots_);
    if (rule.stack) AddLoop(*rule.stack);
    if (rule.cut) rule.cut->AddSlots(slots_);
    for (const PartRule& part : rule.parts) AddPart(part);
  }

  std::vector<int> Take() const {
    std::vector<int> read;
    for (const int slot : slots_) {
      if (!own_.contains(slot)) read.push_back(slot);
    }
    return read;
  }

 private:
  void AddLoop(const Loop& loop) {
    loop.values.AddSlots(slots_);
    own_.insert(loop.slot);
  }

  void AddPart(const PartRule& part) {
    if (part.guard.when) part.guard.when->AddSlots(slots_);
    if (part.guard.loop) AddLoop(*part.guard.loop);
    part.of.AddSlots(slots_);
    for (const auto* number : {&part.index, &part.ways, &part.unit,
                               &part.zero_rows, &part.zero_columns}) {
      if (*number) (*number)->AddSlots(slots_);
    }
    for (const auto* range : {&part.rows, &part.columns}) {
      if (*range) (*range)->AddSlots(slots_);
    }
    for (const PartRule& child : part.children) AddPart(child);
  }

  std::set<int> slots_;
  std::set<int> own_;
};

void AppendNumber(int64_t number, std::string& key) {
  key.append(reinterpret_cast<const char*>(&number), sizeof number);
}

}  // namespace

std::shared_ptr<ExpandedTensor>* RuleMemo::Find(
    const StoredRule& rule, const std::string& prefix,
    const std::string& of_prefix, const Environment& environment) {
  std::unique_ptr<OfRule>& known = rules_[&rule];
  if (known == nullptr) {
    known = std::make_unique<OfRule>();
    known->places_experts = rule.stack && !rule.stack->values.is_range();
    SlotReader reader;
    reader.AddRule(rule);
    known->slots = reader.Take();
  }
  if (known->places_experts) return nullptr;
  key_.clear();
  for (const int slot : known->slots) {
    AppendNumber(environment.values[slot], key_);
  }
  AppendNumber(static_cast<int64_t>(prefix.size()), key_);
  key_ += prefix;
  key_ += of_prefix;
  return &known->by_values[key_];
}

}  // namespace weft::recipe
