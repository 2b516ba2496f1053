// A program of device work that runs on the host, for tests of what is built on
// convert/cuda/program.h: by the reference kernels, at once, when launched.
#ifndef WEFT_CONVERT_TESTING_HOST_PROGRAM_H_
#define WEFT_CONVERT_TESTING_HOST_PROGRAM_H_

#include <memory>

#include "absl/status/statusor.h"
#include "weft/convert/cuda/program.h"

namespace weft::convert::testing {

absl::StatusOr<std::unique_ptr<cuda::Program>> BuildHostProgram(
    int device, const cuda::ProgramSpec& spec,
    const cuda::ProgramOptions& options);

}  // namespace weft::convert::testing

#endif  // WEFT_CONVERT_TESTING_HOST_PROGRAM_H_
