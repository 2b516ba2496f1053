// What a session does with memory of a GPU, by that GPU.
#ifndef WEFT_SESSION_DEVICE_MEMORY_INTERNAL_H_
#define WEFT_SESSION_DEVICE_MEMORY_INTERNAL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/convert/digest.h"
#include "weft/execute/device_options.h"
#include "weft/manifest/placement.h"
#include "weft/session/memory_area.h"
#include "weft/session/quantised_copy_internal.h"

namespace weft::session {

// Notices that a framework freed memory of a session and allocated it again.
class DeviceAreas {
 public:
  // kInvalidArgument when an area that is said to lie on a GPU does not.
  static absl::StatusOr<DeviceAreas> Make(const RankMemory& memory,
                                          const execute::DeviceOptions& device);
  // kFailedPrecondition when an area is not the allocation that it was.
  absl::Status Check() const;

 private:
  struct Area {
    const std::byte* address = nullptr;
    uint64_t allocation = 0;
  };
  memory::DeviceDriver* driver_ = nullptr;
  std::vector<Area> areas_;
};

// The work of a publisher whose weights lie on a GPU: FP8 copies and digests,
// programs that are built once and launched at each version.
class DevicePublication {
 public:
  // `memory` holds the stored tensors of `placement`, the quantised copies
  // among them. All must outlive it.
  static absl::StatusOr<std::unique_ptr<DevicePublication>> Make(
      int device, const manifest::Placement& placement,
      const RankMemory& memory, const QuantisedCopies& quantised,
      const execute::DeviceOptions& options);

  // Begins after what the framework's stream holds. Both wait for the GPU.
  absl::Status Quantise(base::Deadline deadline);
  // Writes the tables of stored tensors on the GPU into `table`
  // (verify::LayOutTables), and leaves the others alone.
  absl::Status Digest(const convert::DigestConstants& constants,
                      absl::Span<convert::DigestValue> table,
                      base::Deadline deadline);

 private:
  // A stretch of the table that the program computes.
  struct Slice {
    int64_t first_in_table = 0;
    int64_t first_in_program = 0;
    int64_t num_values = 0;
  };
  absl::Status Launch(convert::cuda::Program& program,
                      const convert::DigestConstants* constants,
                      base::Deadline deadline, const char* what);

  execute::DeviceOptions options_;
  std::unique_ptr<memory::DeviceBuffer> scratch_;
  std::vector<std::unique_ptr<convert::cuda::Program>> quantise_;  // in order
  std::unique_ptr<convert::cuda::Program> digest_;
  std::vector<Slice> slices_;
  // Destroyed first.
  std::unique_ptr<memory::DeviceQueue> queue_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_DEVICE_MEMORY_INTERNAL_H_
