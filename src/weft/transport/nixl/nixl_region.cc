#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/transport/nixl/nixl_peer_internal.h"
#include "weft/transport/nixl/nixl_wire.h"
#include "weft/transport/region_key.h"

namespace weft::transport::nixl {

absl::StatusOr<std::unique_ptr<Region>> NixlRegion::Make(
    std::shared_ptr<Agent> agent, std::shared_ptr<RegionTable> table,
    uint64_t instance, absl::Span<std::byte> memory,
    const memory::Buffer* buffer, int device) {
  std::unique_ptr<NixlRegion> region(
      new NixlRegion(std::move(agent), std::move(table)));
  const Memory described = region->agent_->Name(memory, device);
  std::string metadata;
  if (!memory.empty()) {
    WEFT_RETURN_IF_ERROR(region->agent_->Register(described));
    region->memory_ = described;
    WEFT_ASSIGN_OR_RETURN(metadata, region->agent_->Describe(described));
  }
  region->region_ = region->table_->Add(memory, buffer, device);
  base::ByteWriter native;
  native.U64(described.address);
  native.U64(described.device);
  native.U8(static_cast<uint8_t>(described.type));
  native.U8(device != memory::kHostMemory ? 1 : 0);
  native.Bytes(metadata);
  region->key_ =
      EncodeKey(kLeaf, {.instance = instance,
                        .slot = region->region_.slot,
                        .generation = region->region_.generation,
                        .size_bytes = static_cast<int64_t>(memory.size()),
                        .native = native.Take()});
  return region;
}

NixlRegion::~NixlRegion() {
  if (!key_.empty()) table_->Remove(region_);
  if (memory_.bytes > 0) agent_->Deregister(memory_);
}

std::string Address::Encode() const {
  base::ByteWriter writer;
  writer.U64(instance);
  writer.Bytes(agent);
  writer.Bytes(connection);
  writer.Bytes(host);
  writer.I64(process);
  return Seal(kLeaf, "address", writer.bytes());
}

absl::StatusOr<Address> Address::Decode(std::string_view sealed) {
  WEFT_ASSIGN_OR_RETURN(const std::string payload,
                        Unseal(kLeaf, "address", sealed));
  base::ByteReader reader(payload);
  Address address;
  address.instance = reader.U64();
  address.agent = std::string(reader.Bytes());
  address.connection = std::string(reader.Bytes());
  address.host = std::string(reader.Bytes());
  address.process = static_cast<pid_t>(reader.I64());
  if (!reader.Finish("address").ok() || address.agent.empty()) {
    return absl::InvalidArgumentError("the nixl address is malformed");
  }
  return address;
}

}  // namespace weft::transport::nixl
