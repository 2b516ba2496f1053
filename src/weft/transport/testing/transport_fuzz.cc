// libFuzzer target: what peers send to each other beside the bytes: messages
// over UCX, NIXL's notifications and shared memory's sockets, and the keys of
// regions that came through the catalog.
//
// Whatever the bytes, decoding ends in a status or in a value; where every
// value has one encoding, it is that of the bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "weft/transport/cuda/device_key.h"
#include "weft/transport/nixl/nixl_wire.h"
#include "weft/transport/region_key.h"
#include "weft/transport/shm/shm_socket.h"
#include "weft/transport/ucx/ucx_wire.h"

namespace {

namespace transport = weft::transport;

// `encode` of what `decode` makes of the bytes decodes again to the same.
template <typename Decode, typename Encode>
void Check(std::string_view bytes, Decode decode, Encode encode) {
  const auto value = decode(bytes);
  if (!value.ok()) return;
  const std::string once = encode(*value);
  const auto again = decode(once);
  if (!again.ok() || encode(*again) != once) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1,
                               size - 1);
  switch (data[0] % 8) {
    case 0:
      Check(bytes, transport::ucx::DecodeRequest,
            [](const auto& value) { return transport::ucx::Encode(value); });
      break;
    case 1:
      Check(bytes, transport::ucx::DecodeReply,
            [](const auto& value) { return transport::ucx::Encode(value); });
      break;
    case 2:
      (void)transport::ucx::DecodeDataHeader(bytes);
      break;
    case 3:
      Check(bytes, transport::nixl::Decode, transport::nixl::Encode);
      break;
    case 4:
      Check(bytes, transport::shm::DecodeRequest,
            transport::shm::EncodeRequest);
      break;
    case 5:
      Check(bytes, transport::shm::DecodeAnswer, transport::shm::EncodeAnswer);
      break;
    case 6:
      Check(bytes, transport::cuda::DecodeDeviceKey,
            transport::cuda::EncodeDeviceKey);
      break;
    default:
      Check(
          bytes,
          [](std::string_view text) {
            return transport::DecodeKey("shm", text);
          },
          [](const auto& value) { return transport::EncodeKey("shm", value); });
  }
  return 0;
}
