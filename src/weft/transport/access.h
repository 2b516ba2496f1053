// What every leaf checks before bytes move, and how a target packs them.
#ifndef WEFT_TRANSPORT_ACCESS_H_
#define WEFT_TRANSPORT_ACCESS_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "weft/memory/buffer.h"
#include "weft/transport/transport.h"

namespace weft::transport {

// kOutOfRange unless [offset_bytes, offset_bytes + bytes) lies inside a region
// of `region_bytes`. `peer` names the region's owner.
absl::Status CheckRange(std::string_view peer, int64_t offset_bytes,
                        int64_t bytes, int64_t region_bytes);

// kInvalidArgument for a negative extent or piece, or a packed size other than
// `local_bytes`; kOutOfRange when a piece leaves the region or a product
// overflows. Negative strides are allowed. Nothing is read of an empty gather,
// so its offsets are not judged.
absl::Status CheckPieces(std::string_view peer, const StridedPieces& pieces,
                         int64_t region_bytes, int64_t local_bytes);

// kInvalidArgument unless `memory` lies inside `buffer`, or `buffer` is null
// and the leaf reaches foreign memory.
absl::Status CheckRegistration(absl::Span<std::byte> memory,
                               const memory::Buffer* buffer,
                               bool foreign_memory);

// Walks the pieces in packed order as contiguous stretches of the region.
// The pieces must have passed CheckPieces, and outlive the cursor.
class PieceCursor {
 public:
  struct Stretch {
    int64_t offset_bytes = 0;
    int64_t bytes = 0;
  };
  // Starts at `packed_offset_bytes` of the packed result.
  PieceCursor(const StridedPieces& pieces, int64_t packed_offset_bytes);
  bool done() const { return remaining_bytes_ == 0; }
  int64_t remaining_bytes() const { return remaining_bytes_; }
  // The next stretch, at most `max_bytes` (> 0) long and inside one piece.
  Stretch Next(int64_t max_bytes);

  // Whole pieces of one row, evenly apart.
  struct Row {
    int64_t offset_bytes = 0;  // of the first piece
    int64_t count = 0;
    int64_t stride_bytes = 0;
  };
  // The next pieces of this row, as many as span at most `max_span_bytes` from
  // the first to the last byte. Takes none (count 0) when not even one does, in
  // the middle of a piece, and when the stride is negative.
  Row NextRow(int64_t max_span_bytes);

 private:
  friend void PackRange(const std::byte* base, const StridedPieces& pieces,
                        int64_t packed_offset_bytes,
                        absl::Span<std::byte> packed);
  // Moves to the piece `count` further in the innermost row, or to the next
  // row when the row ends there.
  void Advance(int64_t count);
  int64_t left_in_row() const { return inner_.extent - inner_index_; }

  const StridedPieces& pieces_;
  StridedPieces::Mode inner_;  // extent 1 when there is no mode
  absl::InlinedVector<int64_t, 4> outer_index_;
  int64_t inner_index_ = 0;
  int64_t piece_offset_bytes_ = 0;  // of the current piece, in the region
  int64_t inside_piece_bytes_ = 0;  // already taken of the current piece
  int64_t remaining_bytes_ = 0;     // of the packed result
};

// Copies bytes [packed_offset_bytes, packed_offset_bytes + packed.size()) of
// the packed result to `packed`. `base` is the region's first byte; the pieces
// must have passed CheckPieces for it.
void PackRange(const std::byte* base, const StridedPieces& pieces,
               int64_t packed_offset_bytes, absl::Span<std::byte> packed);

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_ACCESS_H_
