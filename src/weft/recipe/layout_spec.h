// LayoutSpec: a framework and its degrees, as users spell it:
// "megatron:tp=2,pp=4,first=7,last=7".
#ifndef WEFT_RECIPE_LAYOUT_SPEC_H_
#define WEFT_RECIPE_LAYOUT_SPEC_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace weft::recipe {

enum class Framework { kHf, kFsdp, kMegatron, kVllm };

struct LayoutSpec {
  Framework framework = Framework::kHf;
  std::map<std::string, int64_t> numbers;    // given keys only
  std::map<std::string, std::string> words;  // impl, names, dtype
  // The number given for `key`, or its default (1 for degrees, but tp for
  // etp).
  int64_t Number(std::string_view key, int64_t default_value) const;
  std::string Word(std::string_view key, std::string_view default_value) const;
  // Canonical: given keys in the framework's order, defaults left out.
  std::string ToString() const;
};

// kInvalidArgument on an unknown framework or key (the message lists the known
// ones), a repeated key, a value that is no positive integer, an unknown word.
// Keys that design.md names but this release lacks (vpp, quant ...) are
// kUnimplemented unless they have their neutral value.
absl::StatusOr<LayoutSpec> ParseLayoutSpec(std::string_view text);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_LAYOUT_SPEC_H_
