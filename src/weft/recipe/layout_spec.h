// LayoutSpec: a framework and its degrees, as users spell it:
// "megatron:tp=2,pp=4,first=7,last=7".
#ifndef WEFT_RECIPE_LAYOUT_SPEC_H_
#define WEFT_RECIPE_LAYOUT_SPEC_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace weft::recipe {

enum class Framework { kHf, kFsdp, kMegatron, kVllm, kSglang };

// Which logical expert each physical one is a copy of: one list for all MoE
// layers, or one a layer. `hash` is that of the lists, not of the file's bytes.
struct ExpertTable {
  std::string path;
  std::string hash;
  bool is_per_layer = false;
  std::vector<std::vector<int64_t>> lists;
};

struct LayoutSpec {
  Framework framework = Framework::kHf;
  std::map<std::string, int64_t> numbers;      // given keys only
  std::map<std::string, std::string> words;    // impl, names, dtype, layout ...
  std::shared_ptr<const ExpertTable> experts;  // eplb=; null if not given
  // The number given for `key`, or its default (1 for degrees, but tp for
  // etp).
  int64_t Number(std::string_view key, int64_t default_value) const;
  std::string Word(std::string_view key, std::string_view default_value) const;
  // Canonical: given keys in the framework's order, defaults left out, a file
  // with the hash of what it says: "eplb=FILE@0123456789abcdef".
  std::string ToString() const;
};

// kInvalidArgument on an unknown framework or key (the message lists the known
// ones), a repeated key, a value that is no positive integer, an unknown word,
// or a file that cannot be read or says something else than the hash behind
// its name.
absl::StatusOr<LayoutSpec> ParseLayoutSpec(std::string_view text);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_LAYOUT_SPEC_H_
