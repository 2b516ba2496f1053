#include "weft/manifest/binding.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"

namespace weft::manifest {
namespace {

using base::ByteReader;
using base::ByteWriter;

constexpr uint32_t kBindingMagic = 0x4e424657;  // "WFBN"
constexpr uint32_t kBindingVersion = 1;

void WriteAddresses(const std::vector<TransportAddress>& addresses,
                    ByteWriter& writer) {
  writer.U32(static_cast<uint32_t>(addresses.size()));
  for (const TransportAddress& each : addresses) {
    writer.Bytes(each.transport);
    writer.Bytes(each.address);
  }
}

std::vector<TransportAddress> ReadAddresses(ByteReader& reader) {
  std::vector<TransportAddress> addresses;
  const size_t count = reader.Count(/*min_item_bytes=*/8);
  for (size_t i = 0; i < count; ++i) {
    TransportAddress each;
    each.transport = std::string(reader.Bytes());
    each.address = std::string(reader.Bytes());
    addresses.push_back(std::move(each));
  }
  return addresses;
}

// Everything lies inside its buffer: a receiver may use it unchecked later.
absl::Status CheckBinding(const Binding& binding) {
  base::FaultList faults;
  const auto num_buffers = static_cast<int64_t>(binding.buffers.size());
  for (size_t i = 0; i < binding.stored.size(); ++i) {
    const StoredLocation& where = binding.stored[i];
    if (where.buffer < 0 || where.buffer >= num_buffers) {
      faults.Add(absl::StrCat("stored tensor ", i, " lies in buffer ",
                              where.buffer, " of ", num_buffers));
    } else if (where.offset_bytes < 0 ||
               where.offset_bytes > binding.buffers[where.buffer].bytes) {
      faults.Add(absl::StrCat("stored tensor ", i, " begins at byte ",
                              where.offset_bytes, " of a buffer of ",
                              binding.buffers[where.buffer].bytes));
    }
  }
  if (binding.control_buffer < 0 || binding.control_buffer >= num_buffers) {
    faults.Add(absl::StrCat("control buffer ", binding.control_buffer, " of ",
                            num_buffers));
  } else {
    const int64_t bytes = binding.buffers[binding.control_buffer].bytes;
    if (binding.epoch_word_offset_bytes < 0 ||
        binding.epoch_word_offset_bytes > bytes - 8) {
      faults.Add("epoch word lies outside the control buffer");
    }
    if (binding.digest_table_offset_bytes < 0 ||
        binding.digest_table_bytes < 0 ||
        binding.digest_table_offset_bytes > bytes ||
        binding.digest_table_bytes >
            bytes - binding.digest_table_offset_bytes) {
      faults.Add("digest table lies outside the control buffer");
    }
  }
  return faults.ToStatus(absl::StatusCode::kDataLoss);
}

}  // namespace

std::string EncodeBinding(const Binding& binding) {
  ByteWriter writer;
  writer.U32(kBindingMagic);
  writer.U32(kBindingVersion);
  writer.I64(binding.rank);
  writer.Bytes(binding.host_id);
  writer.I64(binding.process_id);
  WriteAddresses(binding.addresses, writer);
  writer.U32(static_cast<uint32_t>(binding.buffers.size()));
  for (const BufferBinding& buffer : binding.buffers) {
    writer.I64(buffer.bytes);
    WriteAddresses(buffer.keys, writer);
  }
  writer.U32(static_cast<uint32_t>(binding.stored.size()));
  for (const StoredLocation& where : binding.stored) {
    writer.U32(static_cast<uint32_t>(where.buffer));
    writer.I64(where.offset_bytes);
  }
  writer.U32(static_cast<uint32_t>(binding.control_buffer));
  writer.I64(binding.epoch_word_offset_bytes);
  writer.I64(binding.digest_table_offset_bytes);
  writer.I64(binding.digest_table_bytes);
  return writer.Take();
}

absl::StatusOr<Binding> DecodeBinding(std::string_view bytes) {
  ByteReader reader(bytes);
  if (reader.U32() != kBindingMagic || !reader.ok()) {
    return absl::DataLossError("these bytes are no weft binding");
  }
  const uint32_t version = reader.U32();
  if (version != kBindingVersion) {
    return absl::UnimplementedError(absl::StrCat(
        "binding format version ", version,
        " is not known; this release reads version ", kBindingVersion));
  }
  Binding binding;
  binding.rank = reader.I64();
  binding.host_id = std::string(reader.Bytes());
  binding.process_id = reader.I64();
  binding.addresses = ReadAddresses(reader);
  const size_t num_buffers = reader.Count(/*min_item_bytes=*/12);
  for (size_t i = 0; i < num_buffers; ++i) {
    BufferBinding buffer;
    buffer.bytes = reader.I64();
    buffer.keys = ReadAddresses(reader);
    binding.buffers.push_back(std::move(buffer));
  }
  const size_t num_stored = reader.Count(/*min_item_bytes=*/12);
  for (size_t i = 0; i < num_stored; ++i) {
    StoredLocation where;
    where.buffer = static_cast<int32_t>(reader.U32());
    where.offset_bytes = reader.I64();
    binding.stored.push_back(where);
  }
  binding.control_buffer = static_cast<int32_t>(reader.U32());
  binding.epoch_word_offset_bytes = reader.I64();
  binding.digest_table_offset_bytes = reader.I64();
  binding.digest_table_bytes = reader.I64();
  WEFT_RETURN_IF_ERROR(reader.Finish("binding"));
  WEFT_RETURN_IF_ERROR(CheckBinding(binding));
  return binding;
}

}  // namespace weft::manifest
