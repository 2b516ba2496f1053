// The messages between a peer's two sides, beside one-sided access.
//
//   client -> server   kRequest: Hello, Import, Gather, Bye: one payload
//                                Put: header + payload
//   server -> client   kReply:   answer to Hello, Import, Put; a Gather's
//                                failure; Bye
//                      kData:    packed bytes of a Gather, header + payload and
//                                one byte more: was the region still there
//
// Both ends may run different releases of Weft: Hello carries the version.
#ifndef WEFT_TRANSPORT_UCX_UCX_WIRE_H_
#define WEFT_TRANSPORT_UCX_UCX_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/transport/transport.h"

namespace weft::transport::ucx {

inline constexpr std::string_view kLeaf = "ucx";
inline constexpr uint32_t kWireVersion = 3;

// Active message ids.
inline constexpr unsigned kRequestId = 1;
inline constexpr unsigned kReplyId = 2;
inline constexpr unsigned kDataId = 3;

struct Request {
  enum class Kind : uint8_t { kHello = 1, kImport, kGather, kPut, kBye };
  Kind kind = Kind::kHello;
  uint64_t client = 0;  // random, chosen by the client
  uint64_t id = 0;      // echoed in what answers it
  // Hello.
  uint32_t version = kWireVersion;
  uint64_t instance = 0;
  std::string reply_address = {};
  // Import, Gather, Put.
  uint64_t slot = 0;
  uint64_t generation = 0;
  // Gather; a Put uses its offset only.
  StridedPieces pieces = {};
};

struct Reply {
  enum class Kind : uint8_t { kAnswer = 1, kBye };
  Kind kind = Kind::kAnswer;
  uint64_t id = 0;
  absl::Status status = absl::OkStatus();
  int64_t size_bytes = 0;  // Import: of the region
};

// The last byte of a kData payload: whether the region was there until the
// bytes before it were packed.
inline constexpr std::byte kPayloadIsGood{1};
inline constexpr std::byte kRegionIsGone{2};

struct DataHeader {
  uint64_t id = 0;
  int64_t packed_offset_bytes = 0;
};

std::string Encode(const Request& request);
std::string Encode(const Reply& reply);
std::string Encode(const DataHeader& header);
// kDataLoss for bytes that Encode did not make.
absl::StatusOr<Request> DecodeRequest(std::string_view bytes);
absl::StatusOr<Reply> DecodeReply(std::string_view bytes);
absl::StatusOr<DataHeader> DecodeDataHeader(std::string_view bytes);

}  // namespace weft::transport::ucx

#endif  // WEFT_TRANSPORT_UCX_UCX_WIRE_H_
