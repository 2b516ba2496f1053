// Canonical bytes of a placement, format version 2: docs/formats/manifest.md.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/manifest/placement.h"

namespace weft::manifest {
namespace {

using base::ByteReader;
using base::ByteWriter;

constexpr uint32_t kPlacementMagic = 0x4c504657;  // "WFPL"
constexpr uint32_t kPlacementVersion = 2;

// Smallest encodings, so that a count can be checked before memory is taken.
constexpr size_t kMaxRank = 16;
constexpr size_t kMinRangeBytes = 16;
constexpr size_t kMinModeBytes = 16;
constexpr size_t kMinDimBytes = 4;
constexpr size_t kMinFragmentBytes = 4 + 4 + 4 + 8 + 1;
constexpr size_t kMinStoredBytes = 4 + 1 + 4 + 4 + 4;
constexpr size_t kMinTensorBytes = 4 + 1 + 4;
constexpr size_t kScaledBytes = 4 + 4 + 8 + 8 + 1;

void WriteShape(const tensor::Shape& shape, ByteWriter& writer) {
  writer.U32(static_cast<uint32_t>(shape.size()));
  for (const int64_t extent : shape) writer.I64(extent);
}

void WriteBox(const tensor::Box& box, ByteWriter& writer) {
  writer.U32(static_cast<uint32_t>(box.rank()));
  for (const tensor::Range& range : box.ranges()) {
    writer.I64(range.begin);
    writer.I64(range.end);
  }
}

void WriteFragment(const layout::Fragment& fragment, ByteWriter& writer) {
  writer.U32(static_cast<uint32_t>(fragment.tensor));
  WriteBox(fragment.map.box(), writer);
  for (const layout::DimModes& modes : fragment.map.modes()) {
    writer.U32(static_cast<uint32_t>(modes.size()));
    for (const layout::Mode& mode : modes) {
      writer.I64(mode.extent);
      writer.I64(mode.stride);
    }
  }
  writer.I64(fragment.map.offset_elements());
  writer.U8(static_cast<uint8_t>(fragment.transform));
}

tensor::Shape ReadShape(ByteReader& reader) {
  tensor::Shape shape;
  const size_t rank = reader.Count(/*min_item_bytes=*/8);
  if (rank > kMaxRank) reader.Fail();
  for (size_t i = 0; i < rank; ++i) shape.push_back(reader.I64());
  return shape;
}

absl::StatusOr<tensor::Box> ReadBox(ByteReader& reader) {
  absl::InlinedVector<tensor::Range, 4> ranges;
  const size_t rank = reader.Count(kMinRangeBytes);
  if (rank > kMaxRank) reader.Fail();
  for (size_t i = 0; i < rank; ++i) {
    const int64_t begin = reader.I64();
    ranges.push_back({begin, reader.I64()});
  }
  return tensor::Box::Make(ranges);
}

absl::StatusOr<tensor::DType> ReadDType(ByteReader& reader) {
  const uint8_t code = reader.U8();
  const std::optional<tensor::DType> dtype = tensor::DTypeFromCode(code);
  if (!dtype.has_value()) {
    return absl::DataLossError(
        absl::StrCat("dtype code ", static_cast<int>(code), " is unknown"));
  }
  return *dtype;
}

absl::StatusOr<layout::Fragment> ReadFragment(ByteReader& reader) {
  layout::Fragment fragment;
  fragment.tensor = static_cast<int32_t>(reader.U32());
  WEFT_ASSIGN_OR_RETURN(tensor::Box box, ReadBox(reader));
  std::vector<layout::DimModes> modes;
  for (int dim = 0; dim < box.rank(); ++dim) {
    layout::DimModes digits;
    const size_t count = reader.Count(kMinModeBytes);
    for (size_t i = 0; i < count; ++i) {
      const int64_t extent = reader.I64();
      digits.push_back({extent, reader.I64()});
    }
    modes.push_back(std::move(digits));
  }
  const int64_t offset_elements = reader.I64();
  WEFT_ASSIGN_OR_RETURN(fragment.map,
                        layout::IndexMap::Make(std::move(box), std::move(modes),
                                               offset_elements));
  const uint8_t code = reader.U8();
  const std::optional<tensor::Transform> transform =
      tensor::TransformFromCode(code);
  if (!transform.has_value()) {
    return absl::DataLossError(
        absl::StrCat("transform code ", static_cast<int>(code), " is unknown"));
  }
  fragment.transform = *transform;
  return fragment;
}

absl::StatusOr<layout::ScaledTensor> ReadScaled(ByteReader& reader) {
  layout::ScaledTensor scaled;
  scaled.tensor = static_cast<int32_t>(reader.U32());
  scaled.scales = static_cast<int32_t>(reader.U32());
  scaled.scheme.block_rows = reader.I64();
  scaled.scheme.block_cols = reader.I64();
  scaled.scheme.rule = static_cast<tensor::ScaleRule>(reader.U8());
  WEFT_RETURN_IF_ERROR(tensor::CheckScheme(scaled.scheme));
  return scaled;
}

absl::StatusOr<layout::StoredTensor> ReadStored(ByteReader& reader) {
  layout::StoredTensor stored;
  stored.name = std::string(reader.Bytes());
  WEFT_ASSIGN_OR_RETURN(stored.dtype, ReadDType(reader));
  stored.shape = ReadShape(reader);
  const size_t num_fragments = reader.Count(kMinFragmentBytes);
  for (size_t i = 0; i < num_fragments; ++i) {
    WEFT_ASSIGN_OR_RETURN(layout::Fragment fragment, ReadFragment(reader));
    stored.fragments.push_back(std::move(fragment));
  }
  const size_t num_zero_fills = reader.Count(kMinDimBytes);
  for (size_t i = 0; i < num_zero_fills; ++i) {
    WEFT_ASSIGN_OR_RETURN(tensor::Box box, ReadBox(reader));
    stored.zero_fill.push_back(std::move(box));
  }
  return stored;
}

absl::StatusOr<Placement> ReadBody(ByteReader& reader) {
  Placement placement;
  placement.layout_spec = std::string(reader.Bytes());
  placement.rank = reader.I64();
  placement.num_ranks = reader.I64();
  const size_t num_tensors = reader.Count(kMinTensorBytes);
  for (size_t i = 0; i < num_tensors; ++i) {
    tensor::TensorSpec spec;
    spec.name = std::string(reader.Bytes());
    WEFT_ASSIGN_OR_RETURN(spec.dtype, ReadDType(reader));
    spec.shape = ReadShape(reader);
    placement.tensors.push_back(std::move(spec));
  }
  const size_t num_stored = reader.Count(kMinStoredBytes);
  for (size_t i = 0; i < num_stored; ++i) {
    WEFT_ASSIGN_OR_RETURN(layout::StoredTensor stored, ReadStored(reader));
    placement.stored.push_back(std::move(stored));
  }
  const size_t num_scaled = reader.Count(kScaledBytes);
  for (size_t i = 0; i < num_scaled; ++i) {
    WEFT_ASSIGN_OR_RETURN(const layout::ScaledTensor scaled,
                          ReadScaled(reader));
    placement.scaled.push_back(scaled);
  }
  return placement;
}

}  // namespace

std::string EncodePlacement(const Placement& placement) {
  // Of a matrix with one fragment and names of 60 bytes.
  constexpr size_t kUsualTensorBytes = 90;
  constexpr size_t kUsualStoredBytes = 180;
  ByteWriter writer;
  writer.Reserve(kUsualTensorBytes * placement.tensors.size() +
                 kUsualStoredBytes * placement.stored.size());
  writer.U32(kPlacementMagic);
  writer.U32(kPlacementVersion);
  writer.Bytes(placement.layout_spec);
  writer.I64(placement.rank);
  writer.I64(placement.num_ranks);
  writer.U32(static_cast<uint32_t>(placement.tensors.size()));
  for (const tensor::TensorSpec& spec : placement.tensors) {
    writer.Bytes(spec.name);
    writer.U8(static_cast<uint8_t>(spec.dtype));
    WriteShape(spec.shape, writer);
  }
  writer.U32(static_cast<uint32_t>(placement.stored.size()));
  for (const layout::StoredTensor& stored : placement.stored) {
    writer.Bytes(stored.name);
    writer.U8(static_cast<uint8_t>(stored.dtype));
    WriteShape(stored.shape, writer);
    writer.U32(static_cast<uint32_t>(stored.fragments.size()));
    for (const layout::Fragment& fragment : stored.fragments) {
      WriteFragment(fragment, writer);
    }
    writer.U32(static_cast<uint32_t>(stored.zero_fill.size()));
    for (const tensor::Box& box : stored.zero_fill) WriteBox(box, writer);
  }
  writer.U32(static_cast<uint32_t>(placement.scaled.size()));
  for (const layout::ScaledTensor& scaled : placement.scaled) {
    writer.U32(static_cast<uint32_t>(scaled.tensor));
    writer.U32(static_cast<uint32_t>(scaled.scales));
    writer.I64(scaled.scheme.block_rows);
    writer.I64(scaled.scheme.block_cols);
    writer.U8(static_cast<uint8_t>(scaled.scheme.rule));
  }
  return writer.Take();
}

absl::StatusOr<Placement> DecodePlacement(std::string_view bytes) {
  ByteReader reader(bytes);
  if (reader.U32() != kPlacementMagic || !reader.ok()) {
    return absl::DataLossError("these bytes are no weft placement");
  }
  const uint32_t version = reader.U32();
  if (version != kPlacementVersion) {
    return absl::UnimplementedError(absl::StrCat(
        "placement format version ", version,
        " is not known; this release reads version ", kPlacementVersion));
  }
  absl::StatusOr<Placement> placement = ReadBody(reader);
  // A read past the end yields zeros that may fail a check further in: the
  // truncation is the truth to report.
  if (!reader.ok()) return reader.Finish("placement");
  if (!placement.ok()) {
    return absl::DataLossError(absl::StrCat(
        "placement is malformed: ", std::string(placement.status().message())));
  }
  WEFT_RETURN_IF_ERROR(reader.Finish("placement"));
  return placement;
}

}  // namespace weft::manifest
