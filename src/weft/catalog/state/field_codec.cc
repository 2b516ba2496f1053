#include "weft/catalog/state/field_codec.h"

#include <string>
#include <utility>

namespace weft::catalog {

void Write(const VersionId& version, base::ByteWriter& writer) {
  writer.Bytes(version.run_id);
  writer.U64(version.epoch);
  writer.U64(version.step);
}

VersionId ReadVersionId(base::ByteReader& reader) {
  VersionId version;
  version.run_id = std::string(reader.Bytes());
  version.epoch = reader.U64();
  version.step = reader.U64();
  return version;
}

void Write(const Labels& labels, base::ByteWriter& writer) {
  writer.U32(static_cast<uint32_t>(labels.size()));
  for (const auto& [name, value] : labels) {
    writer.Bytes(name);
    writer.Bytes(value);
  }
}

Labels ReadLabels(base::ByteReader& reader) {
  Labels labels;
  const std::size_t count = reader.Count(8);
  for (std::size_t i = 0; i < count && reader.ok(); ++i) {
    std::string name(reader.Bytes());
    // Ascending, as they are written: one encoding for equal labels.
    if (!labels.empty() && labels.rbegin()->first >= name) reader.Fail();
    labels.emplace_hint(labels.end(), std::move(name),
                        std::string(reader.Bytes()));
  }
  return labels;
}

void Write(const WorkerInfo& info, base::ByteWriter& writer) {
  writer.Bytes(info.model);
  writer.U8(static_cast<uint8_t>(info.role));
  writer.Bytes(info.layout_spec);
  writer.I64(info.rank);
  writer.I64(info.num_ranks);
  writer.Bytes(info.run_id);
  writer.U64(info.epoch);
  writer.Bytes(info.host_id);
  writer.I64(info.process_id);
  writer.Bytes(info.placement_digest_hex);
  writer.Bytes(info.model_card_digest_hex);
  writer.Bytes(info.shard_key);
  writer.U32(static_cast<uint32_t>(info.held_shards.size()));
  for (const std::string& key : info.held_shards) writer.Bytes(key);
  Write(info.labels, writer);
  writer.Bytes(info.owner);
}

WorkerInfo ReadWorkerInfo(base::ByteReader& reader) {
  WorkerInfo info;
  info.model = std::string(reader.Bytes());
  info.role = static_cast<Role>(reader.U8());
  if (info.role < Role::kPublisher || info.role > Role::kCopy) {
    reader.Fail();
  }
  info.layout_spec = std::string(reader.Bytes());
  info.rank = reader.I64();
  info.num_ranks = reader.I64();
  info.run_id = std::string(reader.Bytes());
  info.epoch = reader.U64();
  info.host_id = std::string(reader.Bytes());
  info.process_id = reader.I64();
  info.placement_digest_hex = std::string(reader.Bytes());
  info.model_card_digest_hex = std::string(reader.Bytes());
  info.shard_key = std::string(reader.Bytes());
  const std::size_t held_shards = reader.Count(4);
  for (std::size_t i = 0; i < held_shards && reader.ok(); ++i) {
    info.held_shards.emplace_back(reader.Bytes());
  }
  info.labels = ReadLabels(reader);
  info.owner = std::string(reader.Bytes());
  return info;
}

bool ReadFlag(base::ByteReader& reader) {
  const uint8_t byte = reader.U8();
  if (byte > 1) reader.Fail();
  return byte == 1;
}

}  // namespace weft::catalog
