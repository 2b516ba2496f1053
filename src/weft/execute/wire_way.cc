#include <algorithm>
#include <cmath>

#include "weft/base/checked.h"
#include "weft/execute/wire_way_internal.h"

namespace weft::execute {
namespace {

// A staged byte is copied once more, by a core that also drives the wire when
// there is only one; each piece of that copy costs a few nanoseconds beside.
constexpr double kScatterBytesPerSecond = 8e9;
constexpr double kScatterSecondsPerPiece = 5e-9;
constexpr double kOpShareOfWireTime = 0.05;
constexpr double kOpShareOfLongWireTime = 0.02;
constexpr double kMinDirectOpBytes = 4.0 * 1024 * 1024;
constexpr double kMaxDirectOpBytes = 64.0 * 1024 * 1024;
constexpr double kMinThresholdBytes = 16.0 * 1024;
constexpr double kMaxThresholdBytes = 1024.0 * 1024;

// What a transport knows of itself, in the place of a default.
void Take(double value, double& field) {
  if (value > 0 && std::isfinite(value)) field = value;
}

double ScatterSeconds(const WireQuestion& question) {
  const double bytes = static_cast<double>(question.far.far_bytes());
  const double piece =
      static_cast<double>(std::max<int64_t>(1, question.shared_piece_bytes));
  return bytes / kScatterBytesPerSecond +
         bytes / piece * kScatterSecondsPerPiece;
}

double DirectSeconds(const WireCost& cost, const WireQuestion& question) {
  const double bytes = static_cast<double>(question.far.far_bytes());
  const double ops = bytes / static_cast<double>(question.shared_piece_bytes);
  return ops * cost.seconds_per_op + bytes / cost.bytes_per_second;
}

double PiecesSeconds(const WireCost& cost, const WireQuestion& question) {
  const int64_t ops =
      question.far.num_pieces *
      base::CeilDiv(question.far.piece_bytes, question.max_slot_bytes);
  return static_cast<double>(ops) * cost.seconds_per_op +
         static_cast<double>(question.far.far_bytes()) / cost.bytes_per_second +
         ScatterSeconds(question);
}

double SpanSeconds(const WireCost& cost, const WireQuestion& question) {
  const int64_t ops =
      base::CeilDiv(question.far.span_bytes, question.max_slot_bytes);
  return static_cast<double>(ops) * cost.seconds_per_op +
         static_cast<double>(question.far.span_bytes) / cost.bytes_per_second +
         ScatterSeconds(question);
}

double GatherSeconds(const WireCost& cost, const WireQuestion& question) {
  const int64_t bytes = question.far.far_bytes();
  const int64_t ops = base::CeilDiv(bytes, question.max_slot_bytes);
  return static_cast<double>(ops) * cost.gather_seconds_per_op +
         static_cast<double>(bytes) /
             std::min(cost.gather_bytes_per_second, cost.bytes_per_second) +
         ScatterSeconds(question);
}

// Single Gets, straight or through staging, whichever is cheaper.
WireWay ChooseSingleOps(const WireCost& cost, const WireQuestion& question) {
  return question.may_be_direct &&
                 DirectSeconds(cost, question) <= PiecesSeconds(cost, question)
             ? WireWay::kDirect
             : WireWay::kPieces;
}

double SecondsOf(WireWay way, const WireCost& cost,
                 const WireQuestion& question) {
  switch (way) {
    case WireWay::kDirect:
      return DirectSeconds(cost, question);
    case WireWay::kPieces:
      return PiecesSeconds(cost, question);
    case WireWay::kSpan:
      return SpanSeconds(cost, question);
    case WireWay::kGather:
      return GatherSeconds(cost, question);
  }
  return 0;
}

}  // namespace

WireCost WireCost::Of(const transport::Transport* transport) {
  WireCost cost;
  if (transport == nullptr) return cost;
  const transport::Capabilities known = transport->capabilities();
  Take(known.posted_seconds_per_op, cost.seconds_per_op);
  Take(known.posted_bytes_per_second, cost.bytes_per_second);
  Take(known.gather_seconds_per_op, cost.gather_seconds_per_op);
  Take(known.gather_bytes_per_second, cost.gather_bytes_per_second);
  cost.gather = known.gather;
  return cost;
}

WireCost WireCost::OfDevices(const transport::Transport* transport) {
  WireCost cost = Of(transport);
  if (transport == nullptr) return cost;
  const transport::Capabilities known = transport->capabilities();
  Take(known.device_seconds_per_op, cost.seconds_per_op);
  Take(known.device_bytes_per_second, cost.bytes_per_second);
  Take(known.device_gather_seconds_per_op, cost.gather_seconds_per_op);
  Take(known.device_gather_bytes_per_second, cost.gather_bytes_per_second);
  return cost;
}

int64_t WireCost::direct_threshold_bytes() const {
  return static_cast<int64_t>(
      std::clamp(seconds_per_op * bytes_per_second / kOpShareOfWireTime,
                 kMinThresholdBytes, kMaxThresholdBytes));
}

int64_t WireCost::direct_op_bytes() const {
  return static_cast<int64_t>(
      std::clamp(seconds_per_op * bytes_per_second / kOpShareOfLongWireTime,
                 kMinDirectOpBytes, kMaxDirectOpBytes));
}

int64_t WireCost::gap_worth_reading_bytes() const {
  return static_cast<int64_t>(
      std::min(seconds_per_op * bytes_per_second, kMaxThresholdBytes));
}

int64_t WireCost::copy_worth_an_op_bytes() const {
  return static_cast<int64_t>(
      std::min(seconds_per_op * kScatterBytesPerSecond, kMaxThresholdBytes));
}

WireWay ChooseReadWay(const WireCost& cost, const WireQuestion& question,
                      PostedWay forced) {
  if (question.may_be_direct &&
      question.shared_piece_bytes >= cost.direct_threshold_bytes()) {
    return WireWay::kDirect;
  }
  const WireWay single_ops = ChooseSingleOps(cost, question);
  switch (forced) {
    case PostedWay::kShortGets:
      return single_ops;
    case PostedWay::kOverRead:
      return WireWay::kSpan;
    case PostedWay::kGather:
      return WireWay::kGather;
    case PostedWay::kAuto:
      break;
  }
  WireWay best = single_ops;
  double best_seconds = SecondsOf(best, cost, question);
  for (const WireWay way : {WireWay::kSpan, WireWay::kGather}) {
    if (way == WireWay::kGather && !cost.gather) continue;
    const double seconds = SecondsOf(way, cost, question);
    if (seconds < best_seconds) {
      best = way;
      best_seconds = seconds;
    }
  }
  return best;
}

WireWay ChooseWriteWay(const WireCost& cost, const WireQuestion& question) {
  if (question.may_be_direct &&
      question.shared_piece_bytes >= cost.direct_threshold_bytes()) {
    return WireWay::kDirect;
  }
  return ChooseSingleOps(cost, question);
}

}  // namespace weft::execute
