#include "weft/convert/cuda/program.h"

namespace weft::convert::cuda {

absl::Status DeviceAvailable() {
  return absl::UnimplementedError("this weft was built without CUDA");
}

absl::StatusOr<std::unique_ptr<Program>> BuildProgram(
    int /*device*/, const ProgramSpec& /*spec*/,
    const ProgramOptions& /*options*/) {
  return DeviceAvailable();
}

}  // namespace weft::convert::cuda
