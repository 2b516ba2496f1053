#include "weft/recipe/vllm_stages.h"

#include <algorithm>

namespace weft::recipe {

tensor::Range VllmStageLayers(int64_t num_layers, int64_t pp, int64_t stage) {
  const int64_t base = num_layers / pp;
  const int64_t remaining = num_layers % pp;
  // The stages with one layer more are [pp - 1 - remaining, pp - 1).
  const int64_t first_larger = pp - 1 - remaining;
  const auto larger_before = [&](int64_t s) {
    return std::clamp<int64_t>(s - first_larger, 0, remaining);
  };
  return tensor::Range{stage * base + larger_before(stage),
                       (stage + 1) * base + larger_before(stage + 1)};
}

}  // namespace weft::recipe
