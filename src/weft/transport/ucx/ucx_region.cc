#include <utility>

#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/transport/region_key.h"
#include "weft/transport/ucx/ucx_peer_internal.h"

namespace weft::transport::ucx {

absl::StatusOr<std::unique_ptr<Region>> UcxRegion::Make(
    std::shared_ptr<Context> context, std::shared_ptr<RegionTable> table,
    uint64_t instance, absl::Span<std::byte> memory,
    const memory::Buffer* buffer, int device, const absl::Status& one_sided) {
  std::unique_ptr<UcxRegion> region(
      new UcxRegion(std::move(context), std::move(table)));
  const bool on_device = device != memory::kHostMemory;
  absl::Status reached = on_device ? one_sided : absl::OkStatus();
  std::string rkey;
  if (!memory.empty() && reached.ok()) {
    absl::StatusOr<std::string> mapped = region->Map(memory, on_device);
    // Of a GPU's memory there is another way.
    if (!mapped.ok() && !on_device) return mapped.status();
    reached = mapped.status();
    if (mapped.ok()) rkey = *std::move(mapped);
  }
  base::ByteWriter native;
  native.U64(reinterpret_cast<uintptr_t>(memory.data()));
  native.Bytes(rkey);
  native.U8(on_device ? 1 : 0);
  native.Bytes(std::string(reached.message()));
  region->region_ = region->table_->Add(memory, buffer, device);
  region->key_ =
      EncodeKey(kLeaf, {.instance = instance,
                        .slot = region->region_.slot,
                        .generation = region->region_.generation,
                        .size_bytes = static_cast<int64_t>(memory.size()),
                        .mappable = false,
                        .native = native.Take()});
  return region;
}

absl::StatusOr<std::string> UcxRegion::Map(absl::Span<std::byte> memory,
                                           bool on_device) {
  ucp_mem_map_params_t params = {};
  params.field_mask =
      UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = memory.data();
  params.length = memory.size();
  // Emulated access (tests) takes it for the host's.
  if (on_device && context_->CheckDeviceMemory().ok()) {
    params.field_mask |= UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
    params.memory_type = UCS_MEMORY_TYPE_CUDA;
  }
  ucs_status_t status = ucp_mem_map(context_->get(), &params, &handle_);
  if (status != UCS_OK) return ToStatus(status, "registering memory with ucx");
  void* packed = nullptr;
  size_t packed_bytes = 0;
  status = ucp_rkey_pack(context_->get(), handle_, &packed, &packed_bytes);
  if (status != UCS_OK) return ToStatus(status, "making a ucx memory key");
  std::string rkey(static_cast<const char*>(packed), packed_bytes);
  ucp_rkey_buffer_release(packed);
  return rkey;
}

UcxRegion::~UcxRegion() {
  // The table first: it waits for a gather that is packing right now.
  if (region_.generation != 0) table_->Remove(region_);
  if (handle_ != nullptr) ucp_mem_unmap(context_->get(), handle_);
}

}  // namespace weft::transport::ucx
