#include "weft/transport/access.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"

namespace weft::transport {
namespace {

absl::Status Beyond(std::string_view peer, int64_t begin, int64_t end,
                    int64_t region_bytes) {
  return absl::OutOfRangeError(
      absl::StrCat("bytes [", begin, ",", end, ") are outside the region of ",
                   region_bytes, " bytes of ", std::string(peer)));
}

absl::Status Overflow(std::string_view peer) {
  return absl::OutOfRangeError(absl::StrCat("the pieces asked of ",
                                            std::string(peer),
                                            " overflow 64-bit byte offsets"));
}

// First and one past the last byte that the pieces touch.
struct Extremes {
  int64_t begin_bytes = 0;
  int64_t end_bytes = 0;
};

std::optional<Extremes> FindExtremes(const StridedPieces& pieces) {
  Extremes extremes{pieces.offset_bytes, 0};
  std::optional<int64_t> last = pieces.offset_bytes;
  for (const StridedPieces::Mode& mode : pieces.modes) {
    const auto reach = base::CheckedMul(mode.extent - 1, mode.stride_bytes);
    if (!reach) return std::nullopt;
    std::optional<int64_t> begin = extremes.begin_bytes;
    if (*reach < 0) {
      begin = base::CheckedAdd(extremes.begin_bytes, *reach);
    } else {
      last = base::CheckedAdd(*last, *reach);
    }
    if (!begin || !last) return std::nullopt;
    extremes.begin_bytes = *begin;
  }
  const auto end = base::CheckedAdd(*last, pieces.piece_bytes);
  if (!end) return std::nullopt;
  extremes.end_bytes = *end;
  return extremes;
}

// nullopt on overflow; extents must not be negative.
std::optional<int64_t> CountPieces(const StridedPieces& pieces) {
  std::optional<int64_t> count = 1;
  bool overflow = false;
  for (const StridedPieces::Mode& mode : pieces.modes) {
    if (mode.extent <= 0) return 0;
    if (!overflow) count = base::CheckedMul(*count, mode.extent);
    overflow = overflow || !count;
  }
  return count;
}

template <size_t kPieceBytes>
void CopyRowOf(const std::byte* src, int64_t src_stride_bytes, int64_t count,
               std::byte* packed) {
  for (int64_t i = 0; i < count; ++i) {
    // A constant size becomes straight vector moves; a call of memcpy costs
    // more than such a piece.
    std::memcpy(packed, src, kPieceBytes);
    src += src_stride_bytes;
    packed += kPieceBytes;
  }
}

void CopyRow(const std::byte* src, int64_t src_stride_bytes,
             int64_t piece_bytes, int64_t count, std::byte* packed) {
  if (src_stride_bytes == piece_bytes) {
    std::memcpy(packed, src, static_cast<size_t>(count * piece_bytes));
    return;
  }
  switch (piece_bytes) {
    case 1:
      return CopyRowOf<1>(src, src_stride_bytes, count, packed);
    case 2:
      return CopyRowOf<2>(src, src_stride_bytes, count, packed);
    case 4:
      return CopyRowOf<4>(src, src_stride_bytes, count, packed);
    case 8:
      return CopyRowOf<8>(src, src_stride_bytes, count, packed);
    case 16:
      return CopyRowOf<16>(src, src_stride_bytes, count, packed);
    case 32:
      return CopyRowOf<32>(src, src_stride_bytes, count, packed);
    case 64:
      return CopyRowOf<64>(src, src_stride_bytes, count, packed);
    case 128:
      return CopyRowOf<128>(src, src_stride_bytes, count, packed);
    case 256:
      return CopyRowOf<256>(src, src_stride_bytes, count, packed);
    case 512:
      return CopyRowOf<512>(src, src_stride_bytes, count, packed);
    default:
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(packed, src, static_cast<size_t>(piece_bytes));
        src += src_stride_bytes;
        packed += piece_bytes;
      }
  }
}

}  // namespace

int64_t StridedPieces::num_pieces() const {
  return CountPieces(*this).value_or(std::numeric_limits<int64_t>::max());
}

int64_t StridedPieces::packed_bytes() const {
  return base::CheckedMul(num_pieces(), piece_bytes)
      .value_or(std::numeric_limits<int64_t>::max());
}

int64_t StridedPieces::end_offset_bytes() const {
  if (packed_bytes() == 0) return offset_bytes;
  const std::optional<Extremes> extremes = FindExtremes(*this);
  return extremes ? extremes->end_bytes : std::numeric_limits<int64_t>::max();
}

absl::Status CheckRange(std::string_view peer, int64_t offset_bytes,
                        int64_t bytes, int64_t region_bytes) {
  const auto end = base::CheckedAdd(offset_bytes, bytes);
  if (offset_bytes < 0 || bytes < 0 || !end || *end > region_bytes) {
    return Beyond(peer, offset_bytes,
                  end.value_or(std::numeric_limits<int64_t>::max()),
                  region_bytes);
  }
  return absl::OkStatus();
}

absl::Status CheckPieces(std::string_view peer, const StridedPieces& pieces,
                         int64_t region_bytes, int64_t local_bytes) {
  if (pieces.piece_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("pieces of ", pieces.piece_bytes, " bytes asked of ",
                     std::string(peer)));
  }
  for (const StridedPieces::Mode& mode : pieces.modes) {
    if (mode.extent < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a mode of extent ", mode.extent, " asked of ", std::string(peer)));
    }
  }
  const auto count = CountPieces(pieces);
  if (!count) return Overflow(peer);
  const auto packed = base::CheckedMul(*count, pieces.piece_bytes);
  if (!packed) return Overflow(peer);
  if (*packed != local_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the pieces asked of ", std::string(peer), " hold ",
                     *packed, " bytes, the local span ", local_bytes));
  }
  if (*packed == 0) return absl::OkStatus();
  const auto extremes = FindExtremes(pieces);
  if (!extremes) return Overflow(peer);
  if (extremes->begin_bytes < 0 || extremes->end_bytes > region_bytes) {
    return Beyond(peer, extremes->begin_bytes, extremes->end_bytes,
                  region_bytes);
  }
  return absl::OkStatus();
}

absl::Status CheckRegistration(absl::Span<std::byte> memory,
                               const memory::Buffer* buffer,
                               bool foreign_memory) {
  if (buffer == nullptr) {
    if (foreign_memory) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "memory outside a Weft buffer cannot be reached by this transport on "
        "this host");
  }
  const std::byte* begin = buffer->data();
  if (memory.data() < begin ||
      memory.data() + memory.size() > begin + buffer->size_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory of ", memory.size(),
                     " bytes to register is not inside its buffer of ",
                     buffer->size_bytes(), " bytes"));
  }
  return absl::OkStatus();
}

PieceCursor::PieceCursor(const StridedPieces& pieces,
                         int64_t packed_offset_bytes)
    : pieces_(pieces),
      piece_offset_bytes_(pieces.offset_bytes),
      remaining_bytes_(pieces.packed_bytes() - packed_offset_bytes) {
  if (!pieces.modes.empty()) inner_ = pieces.modes.back();
  outer_index_.resize(pieces.modes.empty() ? 0 : pieces.modes.size() - 1);
  if (remaining_bytes_ == 0) return;
  int64_t piece = packed_offset_bytes / pieces.piece_bytes;
  inside_piece_bytes_ = packed_offset_bytes % pieces.piece_bytes;
  inner_index_ = piece % inner_.extent;
  piece /= inner_.extent;
  piece_offset_bytes_ += inner_index_ * inner_.stride_bytes;
  for (size_t mode = outer_index_.size(); mode-- > 0;) {
    outer_index_[mode] = piece % pieces.modes[mode].extent;
    piece /= pieces.modes[mode].extent;
    piece_offset_bytes_ += outer_index_[mode] * pieces.modes[mode].stride_bytes;
  }
}

void PieceCursor::Advance(int64_t count) {
  inner_index_ += count;
  piece_offset_bytes_ += count * inner_.stride_bytes;
  if (inner_index_ < inner_.extent) return;
  piece_offset_bytes_ -= inner_index_ * inner_.stride_bytes;
  inner_index_ = 0;
  for (size_t mode = outer_index_.size(); mode-- > 0;) {
    const StridedPieces::Mode& outer = pieces_.modes[mode];
    piece_offset_bytes_ += outer.stride_bytes;
    if (++outer_index_[mode] < outer.extent) return;
    piece_offset_bytes_ -= outer.extent * outer.stride_bytes;
    outer_index_[mode] = 0;
  }
}

PieceCursor::Stretch PieceCursor::Next(int64_t max_bytes) {
  const Stretch stretch{
      piece_offset_bytes_ + inside_piece_bytes_,
      std::min(max_bytes, pieces_.piece_bytes - inside_piece_bytes_)};
  remaining_bytes_ -= stretch.bytes;
  inside_piece_bytes_ += stretch.bytes;
  if (inside_piece_bytes_ == pieces_.piece_bytes) {
    inside_piece_bytes_ = 0;
    if (remaining_bytes_ > 0) Advance(1);
  }
  return stretch;
}

PieceCursor::Row PieceCursor::NextRow(int64_t max_span_bytes) {
  Row row{piece_offset_bytes_, 0, inner_.stride_bytes};
  if (done() || inside_piece_bytes_ != 0 || inner_.stride_bytes < 0 ||
      max_span_bytes < pieces_.piece_bytes) {
    return row;
  }
  row.count = left_in_row();
  if (inner_.stride_bytes > 0) {
    const int64_t fitting =
        (max_span_bytes - pieces_.piece_bytes) / inner_.stride_bytes + 1;
    row.count = std::min(row.count, fitting);
  }
  remaining_bytes_ -= row.count * pieces_.piece_bytes;
  if (remaining_bytes_ > 0) Advance(row.count);
  return row;
}

void PackRange(const std::byte* base, const StridedPieces& pieces,
               int64_t packed_offset_bytes, absl::Span<std::byte> packed) {
  PieceCursor cursor(pieces, packed_offset_bytes);
  std::byte* out = packed.data();
  auto left = static_cast<int64_t>(packed.size());
  while (left > 0) {
    const int64_t whole_pieces =
        std::min(left / pieces.piece_bytes, cursor.left_in_row());
    if (cursor.inside_piece_bytes_ != 0 || whole_pieces == 0) {
      const PieceCursor::Stretch part = cursor.Next(left);
      std::memcpy(out, base + part.offset_bytes,
                  static_cast<size_t>(part.bytes));
      out += part.bytes;
      left -= part.bytes;
      continue;
    }
    CopyRow(base + cursor.piece_offset_bytes_, cursor.inner_.stride_bytes,
            pieces.piece_bytes, whole_pieces, out);
    const int64_t copied_bytes = whole_pieces * pieces.piece_bytes;
    out += copied_bytes;
    left -= copied_bytes;
    cursor.remaining_bytes_ -= copied_bytes;
    if (cursor.remaining_bytes_ > 0) cursor.Advance(whole_pieces);
  }
}

}  // namespace weft::transport
