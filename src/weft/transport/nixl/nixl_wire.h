// What the two sides tell each other beside the bytes that move, carried by
// NIXL's notifications.
#ifndef WEFT_TRANSPORT_NIXL_NIXL_WIRE_H_
#define WEFT_TRANSPORT_NIXL_NIXL_WIRE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/transport/transport.h"

namespace weft::transport::nixl {

inline constexpr std::string_view kLeaf = "nixl";
inline constexpr uint32_t kWireVersion = 2;

struct Message {
  enum class Kind : uint8_t {
    // To the owner of regions.
    kHello = 1,
    kImport,
    kGather,
    kTaken,  // a chunk of the ring may be used again
    kBye,
    // To its client.
    kAnswer,
    kRing,   // where gathered bytes will lie
    kChunk,  // gathered bytes lie there
    kClosed,
    // Either way; an error of sending it tells that the other is gone.
    kPing,
  };
  Kind kind = Kind::kPing;
  uint64_t client = 0;  // random, chosen by the client
  uint64_t id = 0;      // echoed in what answers it
  // Hello.
  uint32_t version = kWireVersion;
  uint64_t instance = 0;
  std::string agent = {};
  // Hello: how to reach `agent`. Ring: how to read the ring.
  std::string metadata = {};
  // Import, Gather.
  uint64_t slot = 0;
  uint64_t generation = 0;
  StridedPieces pieces = {};
  // Answer; the region's size for an Import.
  absl::Status status = absl::OkStatus();
  // Answer: of the region. Ring: of one chunk. Chunk: of its bytes.
  int64_t size_bytes = 0;
  // Ring: of its first byte. `generation` is its number among NIXL's devices.
  uint64_t address = 0;
  uint8_t memory_type = 0;
  // Ring, Chunk, Taken: the ring in memory of the owner's GPU, or of its host.
  bool on_device = false;
  // Chunk, Taken.
  uint64_t chunk = 0;
  int64_t packed_offset_bytes = 0;
};

// Whether the owner of regions handles it, or its client.
bool IsForOwner(Message::Kind kind);

std::string Encode(const Message& message);
// kDataLoss for bytes that Encode did not make.
absl::StatusOr<Message> Decode(std::string_view bytes);

}  // namespace weft::transport::nixl

#endif  // WEFT_TRANSPORT_NIXL_NIXL_WIRE_H_
