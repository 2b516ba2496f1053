// libFuzzer target: the file that a receiver finds after a restart.
//
// Whatever the bytes, decoding ends in a status or in a value that encodes to
// the very same bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "weft/session/state_file_internal.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto state = weft::session::DecodeReceiverState(bytes);
  if (state.ok() && weft::session::EncodeReceiverState(*state) != bytes) {
    std::abort();
  }
  return 0;
}
