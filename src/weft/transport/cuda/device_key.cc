#include "weft/transport/cuda/device_key.h"

#include "weft/base/byte_codec.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/transport/region_key.h"

namespace weft::transport::cuda {

std::string EncodeDeviceKey(const DeviceKey& key) {
  base::ByteWriter writer;
  writer.U8(key.on_device ? 1 : 0);
  writer.Bytes(key.host_key);
  if (key.on_device) {
    writer.I64(key.size_bytes);
    writer.U64(key.exporter);
    writer.I64(key.process_id);
    writer.U64(key.address);
    writer.Bytes(key.uuid);
    writer.U64(key.allocation);
    writer.I64(key.allocation_bytes);
    writer.I64(key.offset_bytes);
    writer.U8(static_cast<uint8_t>(key.kind));
    writer.Bytes(key.handle);
    writer.I64(key.fd);
  }
  return Seal(kLeaf, "key", writer.bytes());
}

absl::StatusOr<DeviceKey> DecodeDeviceKey(std::string_view bytes) {
  WEFT_ASSIGN_OR_RETURN(const std::string payload, Unseal(kLeaf, "key", bytes));
  base::ByteReader reader(payload);
  DeviceKey key;
  key.on_device = reader.U8() != 0;
  key.host_key = std::string(reader.Bytes());
  uint8_t kind = 0;
  if (key.on_device) {
    key.size_bytes = reader.I64();
    key.exporter = reader.U64();
    key.process_id = reader.I64();
    key.address = reader.U64();
    key.uuid = std::string(reader.Bytes());
    key.allocation = reader.U64();
    key.allocation_bytes = reader.I64();
    key.offset_bytes = reader.I64();
    kind = reader.U8();
    key.handle = std::string(reader.Bytes());
    key.fd = reader.I64();
  }
  const auto end = base::CheckedAdd(key.offset_bytes, key.size_bytes);
  const bool inside = key.offset_bytes >= 0 && key.size_bytes >= 0 && end &&
                      *end <= key.allocation_bytes;
  const bool known =
      kind == static_cast<uint8_t>(memory::DeviceAllocationKind::kPlain) ||
      kind == static_cast<uint8_t>(memory::DeviceAllocationKind::kVirtual);
  if (!reader.Finish("key").ok() || !known || (key.on_device && !inside)) {
    return absl::InvalidArgumentError("the key of a region is malformed");
  }
  key.kind = static_cast<memory::DeviceAllocationKind>(kind);
  return key;
}

}  // namespace weft::transport::cuda
