// How short runs cross a posted wire: the arithmetic of the choice.
#ifndef WEFT_EXECUTE_WIRE_WAY_INTERNAL_H_
#define WEFT_EXECUTE_WIRE_WAY_INTERNAL_H_

#include <cstdint>
#include <string_view>

#include "weft/execute/executor.h"
#include "weft/execute/far_run_internal.h"

namespace weft::execute {

enum class WireWay {
  kDirect,  // one operation a piece, between peer memory and near memory
  kPieces,  // one operation a far piece, through staging
  kSpan,    // one Get from the first to the last byte, through staging
  kGather,  // the target packs, one operation, through staging
};
inline constexpr int kNumWireWays = 4;

// The costs of one peer's transport, with defaults where it knows none.
struct WireCost {
  double seconds_per_op = 1e-6;
  double bytes_per_second = 10e9;
  double gather_seconds_per_op = 5e-6;
  double gather_bytes_per_second = 5e9;
  bool gather = false;

  // `transport` may be null.
  static WireCost Of(const transport::Transport* transport);
  // Between memory of two GPUs, which does not go through the host.
  static WireCost OfDevices(const transport::Transport* transport);
  // Pieces from here on go directly: an operation costs less than 5 % of the
  // time that its bytes are on the wire. 16 KiB to 1 MiB.
  int64_t direct_threshold_bytes() const;
  // Longest operation of a direct transfer: keeps progress and deadlines fine-
  // grained, and costs little of the rate (GPUs carry operations out one after
  // another, with a gap between them). 4 to 64 MiB.
  int64_t direct_op_bytes() const;
  // Unwanted bytes that cost as much as one more operation.
  int64_t gap_worth_reading_bytes() const;
  // Bytes that are copied in the time of one operation.
  int64_t copy_worth_an_op_bytes() const;
};

// What the choice depends on.
struct WireQuestion {
  FarShape far;                    // of the whole run
  int64_t shared_piece_bytes = 0;  // contiguous on both sides
  bool may_be_direct = false;      // no conversion
  int64_t max_slot_bytes = 0;      // largest staged transfer
};

// The cheapest way to read `question`; `forced` restricts the choice for runs
// whose shared pieces are below the direct threshold. kGather is chosen only
// where the transport has it.
WireWay ChooseReadWay(const WireCost& cost, const WireQuestion& question,
                      PostedWay forced);
// kDirect or kPieces.
WireWay ChooseWriteWay(const WireCost& cost, const WireQuestion& question);

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_WIRE_WAY_INTERNAL_H_
