#include "weft/recipe/sglang_stages.h"

#include <algorithm>

namespace weft::recipe {

tensor::Range SglangStageLayers(int64_t num_layers, int64_t pp, int64_t stage) {
  const int64_t base = num_layers / pp;
  const int64_t first_larger = pp - num_layers % pp;
  const auto larger_before = [&](int64_t s) {
    return std::max<int64_t>(s - first_larger, 0);
  };
  return {stage * base + larger_before(stage),
          (stage + 1) * base + larger_before(stage + 1)};
}

}  // namespace weft::recipe
