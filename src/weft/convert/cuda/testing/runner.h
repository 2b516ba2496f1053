// Runs programs whose addresses are the host's: by an interpreter of the
// descriptors, or on a device by way of mirrored buffers. What holds for both
// is tested by one suite.
#ifndef WEFT_CONVERT_CUDA_TESTING_RUNNER_H_
#define WEFT_CONVERT_CUDA_TESTING_RUNNER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/convert/cuda/costs.h"
#include "weft/convert/cuda/program.h"
#include "weft/convert/kernel.h"

namespace weft::convert::cuda::testing {

// Memory that a program may read, and write if `written`.
struct Memory {
  std::byte* data = nullptr;
  int64_t size = 0;
  bool written = false;
};

struct RunInputs {
  const ProgramSpec& spec;
  absl::Span<const Memory> memories;
  const DigestConstants* constants = nullptr;
  ProgramOptions options = {};
  int num_sms = 0;
};

class Runner {
 public:
  virtual ~Runner() = default;
  // The program's digest values. kOutOfRange when something beyond the
  // memories was touched, kDataLoss when a guard around them was written.
  virtual absl::StatusOr<std::vector<DigestValue>> Run(
      const RunInputs& inputs) = 0;
};

// Walks the descriptors on the host, element by element.
std::unique_ptr<Runner> MakeInterpreter(const Costs& costs = {});

// Kernels that make each call a program of its own, so that the suite of
// convert/testing checks programs too.
class RunnerKernels final : public Kernels {
 public:
  RunnerKernels(Runner& runner, const ProgramOptions& options)
      : runner_(runner), options_(options) {}
  std::string_view name() const override { return "program"; }
  void Copy(const StridedCopy& copy) const override;
  void Quantise(const BlockQuantisation& work) const override;
  // On the host: no part of a program.
  void DequantiseMxfp4(const Mxfp4Blocks& work) const override;
  void DigestRow(const DigestConstants& constants, const std::byte* data,
                 int64_t num_elements, int item_bytes, int row, int col,
                 DigestValue& value) const override;
  void DigestBand(const DigestConstants& constants, const std::byte* data,
                  int64_t row_stride_bytes, int num_rows, int64_t num_cols,
                  int item_bytes, int row, int col,
                  absl::Span<DigestValue> values) const override;

 private:
  Runner& runner_;
  const ProgramOptions options_;
};

// Random programs of many copies, casts, transpositions, quantisations and
// digests at once, against the reference kernels.
void CheckRandomPrograms(Runner& runner, int num_programs);
// The same for shapes and layouts of real models: every block digested as it is
// quantised, fused copies, tails.
void CheckDigestedCopies(Runner& runner);
void CheckDigestedQuantisation(Runner& runner);
void CheckStridedDigests(Runner& runner);
void CheckTransposedScales(Runner& runner);
void CheckPieces(Runner& runner);
void CheckWideTranspositions(Runner& runner);

}  // namespace weft::convert::cuda::testing

#endif  // WEFT_CONVERT_CUDA_TESTING_RUNNER_H_
