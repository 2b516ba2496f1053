// A program of device work: built once from a list of copies, quantisations and
// digests whose addresses are a device's own or a peer's that is mapped there,
// uploaded once, launched again and again.
//
// What is regular and converts nothing is left to the copy engines (2-D and 3-D
// copies, no multiprocessors taken); the rest becomes tiles whose descriptors
// lie in device memory and which a persistent kernel walks on as many
// multiprocessors as it is given. docs/decisions/0013-gpu-programs.md.
//
// This header names no type of CUDA; a stream is its cudaStream_t. Without
// device code (WEFT_CUDA=OFF) every function refuses with kUnimplemented.
#ifndef WEFT_CONVERT_CUDA_PROGRAM_H_
#define WEFT_CONVERT_CUDA_PROGRAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace weft::convert::cuda {

// Where the digests of a plane of rows x cols elements go: the plane's first
// element has logical coordinates (row_begin, col_begin), and its tile is value
// `first_value` of the program; the tile to the right is the next value, the
// tile below is `values_per_row` values on. Planes may share tiles: digests add
// up.
struct DigestPlace {
  int64_t row_begin = 0;
  int64_t col_begin = 0;
  int64_t first_value = 0;
  int64_t values_per_row = 0;
};

struct Copy {
  // As Kernels::Copy has it, with device addresses. Any number of modes.
  StridedCopy copy;
  // If set, the source's values are digested as they are read. The last mode
  // is the columns, the one before it the rows; at most two modes.
  std::optional<DigestPlace> source_digest;
};

struct Quantisation {
  // As Kernels::Quantise has it, with device addresses. A block of at most 16 K
  // elements of a 2-byte dtype whose rows are aligned to 16 bytes is read once;
  // others are read twice.
  BlockQuantisation block;
  // From a scale to the one right of it; a transposed layout of scales (padded
  // for TMA, say) has sizeof(float) in block.scales_stride_bytes instead.
  int64_t scales_col_stride_bytes = sizeof(float);
  std::optional<DigestPlace> source_digest;  // of the values before
  std::optional<DigestPlace>
      result_digest;  // of the bytes written to block.dst
};

// A digest of what lies in memory when all copies and quantisations of the
// program are done.
struct Digest {
  const std::byte* data = nullptr;
  int item_bytes = 0;  // 1, 2, 4 or 8
  int64_t rows = 1;
  int64_t cols = 0;
  int64_t row_stride_bytes = 0;
  int64_t col_stride_bytes = 0;  // item_bytes where columns lie side by side
  DigestPlace place;
};

// Copies and quantisations must write disjoint bytes that none of them reads:
// they run in any order and at the same time.
struct ProgramSpec {
  std::vector<Copy> copies;
  std::vector<Quantisation> quantisations;
  std::vector<Digest> digests;
  int64_t num_values = 0;  // DigestValues of the program
};

// Who carries a copy that a copy engine could carry.
enum class CopyWay { kByCost, kEngines, kKernel };

struct ProgramOptions {
  CopyWay copy_way = CopyWay::kByCost;
};

struct ProgramInfo {
  int64_t engine_copies = 0;  // calls a launch
  int64_t engine_bytes = 0;
  int64_t kernel_copy_bytes = 0;  // written by kernels, quantised ones apart
  int64_t quantised_elements = 0;
  int64_t digested_bytes = 0;  // in passes of their own
  int64_t fused_digest_bytes = 0;
  int64_t tiles = 0;
  int64_t device_bytes = 0;  // descriptors, values and scratch
};

struct LaunchOptions {
  // Multiprocessors that kernels may take; 0 = all. A multiprocessor is taken
  // whole.
  int num_sms = 0;
  // Null: nothing is digested. Copied by Launch.
  const DigestConstants* constants = nullptr;
  // Whether the digests are brought to the host, too.
  bool values_to_host = true;
};

// Not thread-safe. The memory that a program touches must outlive it, its peer
// access enabled or its handles open.
class Program {
 public:
  virtual ~Program() = default;
  // Puts one run on `stream`, of the program's device; returns at once. A run
  // must have left the stream before the next is launched on another one.
  virtual absl::Status Launch(CUstream_st* stream,
                              const LaunchOptions& options) = 0;
  // Makes kernels that run or wait stop taking tiles, so that the stream
  // drains soon: the destination is torn then. Copies of copy engines that were
  // submitted come to their end. The next Launch works as ever.
  virtual absl::Status Abort() = 0;
  // Whether the last run has left its stream; true before the first.
  virtual absl::StatusOr<bool> Done() = 0;
  // The digests of the last run with constants and `values_to_host`, of which
  // an event or a synchronisation said that it has left the stream.
  virtual absl::Span<const DigestValue> digest_values() const = 0;
  // The same in device memory, in stream order: for who reads them there.
  virtual const DigestValue* device_digest_values() const = 0;
  virtual const ProgramInfo& info() const = 0;
};

// Checks the whole list (dtypes, extents, places) and uploads it to `device`.
// kInvalidArgument with all faults, kUnavailable without a usable device,
// kResourceExhausted when its memory does not suffice.
absl::StatusOr<std::unique_ptr<Program>> BuildProgram(
    int device, const ProgramSpec& spec, const ProgramOptions& options);

// Whether this build has device code and a driver with a device is there;
// kUnimplemented, kUnavailable with the reason.
absl::Status DeviceAvailable();

}  // namespace weft::convert::cuda

#endif  // WEFT_CONVERT_CUDA_PROGRAM_H_
