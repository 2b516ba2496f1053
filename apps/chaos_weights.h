// The model of `weft chaos`: weights that anyone can recompute, and from whose
// bytes alone it can be read which versions they belong to. Element i of tensor
// `name` at step s has the 16 bits
//
//   h(name, i) + s * 40503        modulo 2^16
//
// so every element differs between any two steps that are not a multiple of
// 65536 apart. Nothing of the planner, the executor or the kernels is used.
#ifndef WEFT_APPS_CHAOS_WEIGHTS_H_
#define WEFT_APPS_CHAOS_WEIGHTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/manifest/placement.h"
#include "weft/recipe/recipe.h"
#include "weft/session/memory_area.h"

namespace weft::apps {

// What rank `rank` of `layout` holds of a small Qwen3.
absl::StatusOr<manifest::Placement> ChaosPlacement(const std::string& layout,
                                                   int64_t rank);

// Writes step `step` into the stored tensors [first, last).
void WriteChaosWeights(const manifest::Placement& placement,
                       const session::RankMemory& memory, uint64_t step,
                       size_t first, size_t last);

// Number of elements by the step (modulo 65536) that they belong to.
using StepCounts = std::map<uint16_t, int64_t>;
StepCounts CountChaosSteps(const manifest::Placement& placement,
                           const session::RankMemory& memory);

// Memory of one rank in a file, which a reader in another process maps too.
class SharedRankFile {
 public:
  // Makes the file of poisoned bytes if `create`.
  static absl::StatusOr<std::unique_ptr<SharedRankFile>> Open(
      const std::string& path, const manifest::Placement& placement,
      bool create);
  ~SharedRankFile();
  SharedRankFile(const SharedRankFile&) = delete;
  SharedRankFile& operator=(const SharedRankFile&) = delete;
  const session::RankMemory& memory() const { return memory_; }

 private:
  SharedRankFile() = default;
  absl::Span<std::byte> bytes_;
  session::RankMemory memory_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_WEIGHTS_H_
