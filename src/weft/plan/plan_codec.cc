// Canonical bytes of a plan, format version 1: docs/formats/plan_file.md.
#include "weft/plan/plan_codec.h"

#include <cstddef>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/plan/check_series.h"

namespace weft::plan {
namespace {

using base::ByteReader;
using base::ByteWriter;
using tensor::Box;

constexpr uint32_t kPlanMagic = 0x4e504657;  // "WFPN"
constexpr uint32_t kPlanVersion = 1;

// Smallest encodings, so that a count can be checked before memory is taken.
constexpr size_t kMaxRank = 16;
constexpr size_t kRangeBytes = 16;
constexpr size_t kMinSeriesBytes = 5 * 4 + 3 + 4 + 2 * 8;
constexpr size_t kPeerBytes = 5 * 8;
constexpr size_t kMinZeroFillBytes = 4 + 4;
constexpr size_t kUseBytes = 3 + 1 + 2 * 8;

void WriteIndex(int32_t index, ByteWriter& writer) {
  writer.U32(static_cast<uint32_t>(index));
}

void WriteDigest(const manifest::LayoutDigest& digest, ByteWriter& writer) {
  for (const uint8_t byte : digest.bytes) writer.U8(byte);
}

void WriteBox(const Box& box, ByteWriter& writer) {
  writer.U32(static_cast<uint32_t>(box.rank()));
  for (const tensor::Range& range : box.ranges()) {
    writer.I64(range.begin);
    writer.I64(range.end);
  }
}

void WriteConversion(const tensor::Conversion& conversion, ByteWriter& writer) {
  writer.U8(static_cast<uint8_t>(conversion.from));
  writer.U8(static_cast<uint8_t>(conversion.to));
  writer.U8(static_cast<uint8_t>(conversion.transform));
}

void WriteSeries(const MoveSeries& series, ByteWriter& writer) {
  for (const int32_t index :
       {series.tensor, series.src_stored, series.src_fragment,
        series.dst_stored, series.dst_fragment}) {
    WriteIndex(index, writer);
  }
  WriteConversion(series.conversion, writer);
  WriteBox(series.box, writer);
  writer.I64(series.src_rank);
  writer.I64(series.num_moves);
  if (series.num_moves == 1) return;
  writer.I64(series.rank_step);
  WriteIndex(series.dim, writer);
  writer.I64(series.head);
  writer.I64(series.chunk);
}

// All totals, in the order of PlanTotals.
constexpr int64_t PlanTotals::*kTotals[] = {&PlanTotals::moves,
                                            &PlanTotals::runs,
                                            &PlanTotals::src_bytes,
                                            &PlanTotals::dst_bytes,
                                            &PlanTotals::witness_bytes,
                                            &PlanTotals::zero_fill_bytes,
                                            &PlanTotals::scratch_bytes,
                                            &PlanTotals::shortest_run_bytes,
                                            &PlanTotals::longest_run_bytes,
                                            &PlanTotals::peak_staging_bytes};

int32_t ReadIndex(ByteReader& reader) {
  return static_cast<int32_t>(reader.U32());
}

manifest::LayoutDigest ReadDigest(ByteReader& reader) {
  manifest::LayoutDigest digest;
  for (uint8_t& byte : digest.bytes) byte = reader.U8();
  return digest;
}

absl::StatusOr<Box> ReadBox(ByteReader& reader) {
  absl::InlinedVector<tensor::Range, 4> ranges;
  const size_t rank = reader.Count(kRangeBytes);
  if (rank > kMaxRank) {
    return absl::DataLossError(
        absl::StrCat("a box has ", rank, " dimensions, at most ", kMaxRank));
  }
  for (size_t i = 0; i < rank; ++i) {
    const int64_t begin = reader.I64();
    ranges.push_back({begin, reader.I64()});
  }
  return Box::Make(ranges);
}

absl::StatusOr<tensor::Conversion> ReadConversion(ByteReader& reader) {
  const uint8_t from = reader.U8();
  const uint8_t to = reader.U8();
  const uint8_t code = reader.U8();
  const std::optional<tensor::DType> from_dtype = tensor::DTypeFromCode(from);
  const std::optional<tensor::DType> to_dtype = tensor::DTypeFromCode(to);
  const std::optional<tensor::Transform> transform =
      tensor::TransformFromCode(code);
  if (!from_dtype || !to_dtype || !transform) {
    return absl::DataLossError(
        absl::StrCat("conversion from dtype code ", static_cast<int>(from),
                     " to ", static_cast<int>(to), " by transform ",
                     static_cast<int>(code), " is unknown"));
  }
  return tensor::Conversion{*from_dtype, *to_dtype, *transform};
}

absl::StatusOr<MoveSeries> ReadSeries(ByteReader& reader) {
  MoveSeries series;
  series.tensor = ReadIndex(reader);
  series.src_stored = ReadIndex(reader);
  series.src_fragment = ReadIndex(reader);
  series.dst_stored = ReadIndex(reader);
  series.dst_fragment = ReadIndex(reader);
  WEFT_ASSIGN_OR_RETURN(series.conversion, ReadConversion(reader));
  WEFT_ASSIGN_OR_RETURN(series.box, ReadBox(reader));
  series.src_rank = reader.I64();
  series.num_moves = reader.I64();
  if (series.num_moves != 1) {
    series.rank_step = reader.I64();
    series.dim = ReadIndex(reader);
    series.head = reader.I64();
    series.chunk = reader.I64();
  }
  if (!IsSeries(series)) {
    return absl::DataLossError(
        absl::StrCat("box ", series.box.ToString(), " is not ",
                     series.num_moves, " moves of ", series.head, ", then ",
                     series.chunk, " along dimension ", series.dim));
  }
  return series;
}

absl::StatusOr<ConversionUse> ReadUse(ByteReader& reader) {
  ConversionUse use;
  WEFT_ASSIGN_OR_RETURN(use.conversion, ReadConversion(reader));
  const uint8_t lossy = reader.U8();
  if (lossy > 1) {
    return absl::DataLossError(absl::StrCat(
        "whether a conversion loses bits is ", static_cast<int>(lossy)));
  }
  use.lossy = lossy == 1;
  use.num_tensors = reader.I64();
  use.num_elements = reader.I64();
  return use;
}

absl::StatusOr<CompactPlan> ReadBody(ByteReader& reader) {
  CompactPlan plan;
  plan.source_digest = ReadDigest(reader);
  plan.target_digest = ReadDigest(reader);
  plan.target_rank = reader.I64();
  const size_t num_series = reader.Count(kMinSeriesBytes);
  int64_t moves = 0;
  for (size_t i = 0; i < num_series; ++i) {
    WEFT_ASSIGN_OR_RETURN(MoveSeries series, ReadSeries(reader));
    if (series.num_moves > kMaxPlanFileMoves - moves) {
      return absl::DataLossError(
          absl::StrCat("it has more than ", kMaxPlanFileMoves, " moves"));
    }
    moves += series.num_moves;
    plan.series.push_back(std::move(series));
  }
  const size_t num_peers = reader.Count(kPeerBytes);
  for (size_t i = 0; i < num_peers; ++i) {
    PeerTraffic& peer = plan.peers.emplace_back();
    for (int64_t* value : {&peer.src_rank, &peer.moves, &peer.src_bytes,
                           &peer.dst_bytes, &peer.witness_bytes}) {
      *value = reader.I64();
    }
  }
  const size_t num_zero_fills = reader.Count(kMinZeroFillBytes);
  for (size_t i = 0; i < num_zero_fills; ++i) {
    const int32_t stored = ReadIndex(reader);
    WEFT_ASSIGN_OR_RETURN(Box box, ReadBox(reader));
    plan.zero_fills.push_back({stored, std::move(box)});
  }
  const size_t num_uses = reader.Count(kUseBytes);
  for (size_t i = 0; i < num_uses; ++i) {
    WEFT_ASSIGN_OR_RETURN(const ConversionUse use, ReadUse(reader));
    plan.conversions.push_back(use);
  }
  for (int64_t PlanTotals::*total : kTotals) {
    plan.totals.*total = reader.I64();
  }
  return plan;
}

}  // namespace

std::string EncodePlan(const CompactPlan& plan) {
  constexpr size_t kUsualSeriesBytes = 110;
  ByteWriter writer;
  writer.Reserve(kUsualSeriesBytes * plan.series.size());
  writer.U32(kPlanMagic);
  writer.U32(kPlanVersion);
  WriteDigest(plan.source_digest, writer);
  WriteDigest(plan.target_digest, writer);
  writer.I64(plan.target_rank);
  writer.U32(static_cast<uint32_t>(plan.series.size()));
  for (const MoveSeries& series : plan.series) WriteSeries(series, writer);
  writer.U32(static_cast<uint32_t>(plan.peers.size()));
  for (const PeerTraffic& peer : plan.peers) {
    for (const int64_t value : {peer.src_rank, peer.moves, peer.src_bytes,
                                peer.dst_bytes, peer.witness_bytes}) {
      writer.I64(value);
    }
  }
  writer.U32(static_cast<uint32_t>(plan.zero_fills.size()));
  for (const ZeroFill& fill : plan.zero_fills) {
    WriteIndex(fill.dst_stored, writer);
    WriteBox(fill.box, writer);
  }
  writer.U32(static_cast<uint32_t>(plan.conversions.size()));
  for (const ConversionUse& use : plan.conversions) {
    WriteConversion(use.conversion, writer);
    writer.U8(use.lossy ? 1 : 0);
    writer.I64(use.num_tensors);
    writer.I64(use.num_elements);
  }
  for (int64_t PlanTotals::*total : kTotals) writer.I64(plan.totals.*total);
  return writer.Take();
}

absl::StatusOr<CompactPlan> DecodePlan(std::string_view bytes) {
  ByteReader reader(bytes);
  if (reader.U32() != kPlanMagic || !reader.ok()) {
    return absl::DataLossError("these bytes are no weft plan");
  }
  const uint32_t version = reader.U32();
  if (!reader.ok()) return reader.Finish("plan");
  if (version != kPlanVersion) {
    return absl::UnimplementedError(absl::StrCat(
        "plan format version ", version,
        " is not known; this release reads version ", kPlanVersion));
  }
  absl::StatusOr<CompactPlan> plan = ReadBody(reader);
  // A read past the end yields zeros that may fail a check further in: the
  // truncation is the truth to report.
  if (!reader.ok()) return reader.Finish("plan");
  if (!plan.ok()) {
    return absl::DataLossError(absl::StrCat(
        "plan is malformed: ", std::string(plan.status().message())));
  }
  WEFT_RETURN_IF_ERROR(reader.Finish("plan"));
  return plan;
}

}  // namespace weft::plan
