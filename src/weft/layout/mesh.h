// Mesh: named axes over ranks, and the two rules by which frameworks cut.
#ifndef WEFT_LAYOUT_MESH_H_
#define WEFT_LAYOUT_MESH_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/tensor/box.h"

namespace weft::layout {

struct MeshAxis {
  std::string name;
  int64_t degree = 1;
};

class Mesh {
 public:
  // `axes` fastest first: rank = c_0 + d_0*(c_1 + d_1*(...)). kInvalidArgument
  // on a degree < 1, a repeated name or more than 2^31 ranks.
  static absl::StatusOr<Mesh> Make(std::vector<MeshAxis> axes);

  int64_t num_ranks() const { return num_ranks_; }
  const std::vector<MeshAxis>& axes() const { return axes_; }
  // Coordinate of `rank` on `axis`; 0 for an axis that the mesh lacks.
  // Requires 0 <= rank < num_ranks().
  int64_t Coordinate(int64_t rank, std::string_view axis) const;
  // 1 for an axis that the mesh lacks.
  int64_t Degree(std::string_view axis) const;
  // "tp=2 cp=1 dp=1 pp=4" with the fastest axis first.
  std::string ToString() const;

 private:
  std::vector<MeshAxis> axes_;
  int64_t num_ranks_ = 1;
};

// [r*n/k, (r+1)*n/k): the rule of every Megatron and vLLM split.
// kInvalidArgument unless k divides n.
absl::StatusOr<tensor::Range> EvenSplit(int64_t n, int64_t k, int64_t r);

// c = ceil(n/k); [min(n,r*c), min(n,(r+1)*c)): the rule of torch.chunk and of
// DTensor Shard. Possibly short or empty at the tail.
tensor::Range ChunkSplit(int64_t n, int64_t k, int64_t r);

}  // namespace weft::layout

#endif  // WEFT_LAYOUT_MESH_H_
