// The mapped path: moves between two mapped memories, cut into chunks that
// threads take one after another.
#ifndef WEFT_EXECUTE_MAPPED_COMPILE_INTERNAL_H_
#define WEFT_EXECUTE_MAPPED_COMPILE_INTERNAL_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/convert/kernel.h"
#include "weft/execute/binding_internal.h"
#include "weft/layout/index_map.h"

namespace weft::execute {

// What one thread does between two looks at the deadline.
struct MappedChunk {
  int32_t move = 0;  // its first move, into Binding::moves
  int32_t peer = 0;
  int64_t copies_begin = 0;  // into MappedProgram::copies
  int64_t copies_end = 0;
  int64_t dst_bytes = 0;
  int32_t digest = -1;  // into MappedProgram::digests
};

// Source values of a chunk that converts, where they lie.
struct MappedDigest {
  const std::byte* base = nullptr;
  layout::IndexMap map;
  tensor::DType dtype = tensor::DType::kBF16;
  int32_t table = 0;
};

struct MappedProgram {
  std::vector<convert::StridedCopy> copies;  // in memory order of each move
  std::vector<MappedChunk> chunks;
  std::vector<MappedDigest> digests;
};

// Compiles the moves of `binding` that have far_mapped. No copy moves more
// than 1 MiB, fewer where the plan is too small to keep `num_threads` busy
// otherwise.
absl::StatusOr<MappedProgram> CompileMapped(const Binding& binding,
                                            int num_threads);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_MAPPED_COMPILE_INTERNAL_H_
