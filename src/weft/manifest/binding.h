// Binding: the part of a manifest that changes when a process restarts or
// memory moves: addresses, keys, generation. Keys and addresses are opaque
// bytes that only the transport of that name understands.
#ifndef WEFT_MANIFEST_BINDING_H_
#define WEFT_MANIFEST_BINDING_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace weft::manifest {

struct TransportAddress {
  std::string transport;  // "shm", "ucx", "inproc"
  std::string address;
};

// One registered buffer: its key under each transport that registered it.
struct BufferBinding {
  int64_t bytes = 0;
  std::vector<TransportAddress> keys;  // .address holds the region key
};

// Where stored tensor i of the placement lies.
struct StoredLocation {
  int32_t buffer = 0;
  int64_t offset_bytes = 0;
};

struct Binding {
  int64_t rank = 0;
  std::string host_id;  // boot id + pid namespace: same host, mappable
  int64_t process_id = 0;
  std::vector<TransportAddress> addresses;
  std::vector<BufferBinding> buffers;
  std::vector<StoredLocation> stored;  // one a stored tensor
  // Buffer 'control' (index into buffers) holds, little endian: the epoch word
  // (u64) at `epoch_word_offset_bytes`, and at `digest_table_offset_bytes` the
  // digest tables of all fragments in placement order (verify/digest_table.h).
  int32_t control_buffer = 0;
  int64_t epoch_word_offset_bytes = 0;
  int64_t digest_table_offset_bytes = 0;
  int64_t digest_table_bytes = 0;
};

std::string EncodeBinding(const Binding& binding);
// kDataLoss on malformed bytes or indices out of range.
absl::StatusOr<Binding> DecodeBinding(std::string_view bytes);

}  // namespace weft::manifest

#endif  // WEFT_MANIFEST_BINDING_H_
