#include "weft/base/status.h"
#include "weft/convert/cuda/program.h"

namespace weft::convert::cuda {

absl::StatusOr<std::unique_ptr<Program>> BuildProgram(
    int /*device*/, const ProgramSpec& /*spec*/,
    const ProgramOptions& /*options*/) {
  WEFT_RETURN_IF_ERROR(DeviceAvailable());
  return absl::UnimplementedError("programs on a device are not built yet");
}

}  // namespace weft::convert::cuda
