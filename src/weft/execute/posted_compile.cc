#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include "absl/strings/str_join.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/block_internal.h"
#include "weft/execute/posted_compile_internal.h"
#include "weft/execute/staging_internal.h"
#include "weft/tensor/dtype.h"

namespace weft::execute {
namespace {

// A span transfer that may still be joined with its neighbours in far memory.
struct Span {
  Transfer transfer;
  std::vector<SlotCopy> copies;
  // A single piece, contiguous on both sides: goes directly if it stays alone.
  bool direct_if_alone = false;
  int64_t wanted_bytes = 0;
  int64_t far_end() const {
    return transfer.far_offset_bytes + transfer.piece_bytes;
  }
};

class PostedCompiler {
 public:
  PostedCompiler(const Binding& binding, const WireCost& cost, PostedWay forced,
                 int64_t max_slot_bytes)
      : binding_(binding),
        cost_(cost),
        forced_(forced),
        max_slot_bytes_(max_slot_bytes),
        direct_threshold_bytes_(cost.direct_threshold_bytes()) {}

  absl::StatusOr<PeerTransfers> Compile(int peer) {
    for (size_t m = 0; m < binding_.moves.size(); ++m) {
      const BoundMove& move = binding_.moves[m];
      if (move.peer != peer || move.far_mapped != nullptr) continue;
      index_ = static_cast<int32_t>(m);
      if (move.converted_table >= 0) {
        WEFT_RETURN_IF_ERROR(CompileConversion(move));
      } else {
        for (const layout::Run& run : *move.runs) CompileRun(move, run);
      }
    }
    JoinSpans();
    return std::move(out_);
  }

 private:
  bool pull() const { return binding_.direction == Direction::kPull; }
  int64_t FarItem(const BoundMove& move) const {
    return tensor::ItemBytes(pull() ? move.conversion.from
                                    : move.conversion.to);
  }
  int64_t DstBytes(const BoundMove& move, int64_t elements) const {
    return elements * tensor::ItemBytes(move.conversion.to);
  }

  WireWay Choose(const WireQuestion& question) const {
    return pull() ? ChooseReadWay(cost_, question, forced_)
                  : ChooseWriteWay(cost_, question);
  }

  Transfer NewTransfer(const BoundMove& move, WireWay way) const {
    Transfer transfer;
    transfer.way = way;
    transfer.move = index_;
    transfer.region = move.far_region;
    return transfer;
  }

  // The operations of `run`, whose near strides are those of the local memory
  // of the operations; `piece_bytes` are contiguous on both sides.
  static void SetPieces(const FarRun& run, int num_outer_modes,
                        int64_t piece_bytes, int64_t max_op_bytes,
                        Transfer& transfer) {
    int64_t pieces = 1;
    for (int i = 0; i < num_outer_modes; ++i) {
      const FarMode& mode = run.modes[i];
      transfer.modes.push_back(
          {mode.extent, mode.far_stride_bytes, mode.near_stride_bytes});
      pieces *= mode.extent;
    }
    transfer.far_offset_bytes = run.far_offset_bytes;
    transfer.piece_bytes = piece_bytes;
    transfer.ops_per_piece = base::CeilDiv(piece_bytes, max_op_bytes);
    transfer.num_ops = pieces * transfer.ops_per_piece;
    transfer.wire_bytes = pieces * piece_bytes;
  }

  void Commit(Transfer transfer) {
    out_.ways[static_cast<size_t>(transfer.way)] = true;
    if (transfer.slot_bytes > 0) {
      out_.total_slot_bytes +=
          base::AlignUp(transfer.slot_bytes, Staging::kSlotAlignBytes);
      out_.staged.push_back(std::move(transfer));
    } else {
      out_.short_direct |= transfer.piece_bytes < direct_threshold_bytes_;
      out_.direct.push_back(std::move(transfer));
    }
  }

  void CompileRun(const BoundMove& move, const layout::Run& run) {
    const int64_t item = FarItem(move);  // identity: both items are equal
    FarRun far = pull() ? MakeFarRun(run, move.conversion, Direction::kPull,
                                     move.far_offset_bytes, 0)
                        : MakeFarRun(run, move.conversion, Direction::kPush, 0,
                                     move.far_offset_bytes);
    SortByFarStride(far);
    WireQuestion question;
    question.far = ShapeOf(far, item);
    question.shared_piece_bytes = SharedPieceBytes(far, item);
    question.may_be_direct = true;
    question.max_slot_bytes = max_slot_bytes_;
    const WireWay way = Choose(question);
    const bool lone_piece = question.shared_piece_bytes ==
                            MeasureRun(far, item, Measure::kAllBytes);
    const bool may_join =
        pull() && lone_piece && way == WireWay::kDirect &&
        forced_ == PostedWay::kAuto &&
        question.shared_piece_bytes <=
            std::min(cost_.copy_worth_an_op_bytes(), max_slot_bytes_);
    if (may_join) {
      AddSpan(move, far, true);
    } else if (way == WireWay::kDirect) {
      AddDirect(move, far);
    } else {
      AddStaged(move, far, way);
    }
  }

  void AddDirect(const BoundMove& move, const FarRun& far) {
    const int64_t item = FarItem(move);
    Transfer transfer = NewTransfer(move, WireWay::kDirect);
    const int64_t piece = SharedPieceBytes(far, item);
    const bool piece_is_mode = !far.modes.empty() &&
                               far.modes.back().far_stride_bytes == item &&
                               far.modes.back().near_stride_bytes == item;
    const int outer =
        static_cast<int>(far.modes.size()) - (piece_is_mode ? 1 : 0);
    SetPieces(far, outer, piece, cost_.direct_op_bytes(), transfer);
    transfer.near = move.near + far.near_offset_bytes;
    transfer.near_region = move.near_region;
    transfer.dst_bytes = transfer.wire_bytes;
    Commit(std::move(transfer));
  }

  void AddStaged(const BoundMove& move, const FarRun& far, WireWay way) {
    const int64_t item = FarItem(move);
    if (way == WireWay::kSpan) {
      // Three quarters, so that neighbours whose spans overlap can be joined.
      SplitRun(
          far, item, std::max(item, max_slot_bytes_ / 4 * 3), Measure::kFarSpan,
          [this, &move](const FarRun& part) { AddSpan(move, part, false); });
      return;
    }
    SplitRun(far, item, max_slot_bytes_, Measure::kFarBytes,
             [this, &move, way](const FarRun& part) {
               AddCompact(move, part, way);
             });
  }

  // Sets what a transfer does on the wire; `to_slot` has slot strides on its
  // near side and no repeated values.
  void SetWire(const FarRun& to_slot, int64_t item, int64_t slot_bytes,
               Transfer& transfer) const {
    const FarShape shape = ShapeOf(to_slot, item);
    transfer.slot_bytes = slot_bytes;
    if (transfer.way == WireWay::kSpan) {
      SetPieces(to_slot, 0, slot_bytes, slot_bytes, transfer);
      return;
    }
    SetPieces(to_slot, shape.num_outer_modes, shape.piece_bytes,
              max_slot_bytes_, transfer);
    if (transfer.way == WireWay::kGather) transfer.num_ops = 1;
  }

  SlotCopy MakeSlotCopy(const BoundMove& move, const FarRun& slot_to_near) {
    SlotCopy result;
    result.copy = MakeCopy(slot_to_near, move.conversion, binding_.direction);
    result.slot_offset_bytes = slot_to_near.far_offset_bytes;
    std::byte* const near = move.near + slot_to_near.near_offset_bytes;
    if (pull()) {
      result.copy.dst = near;
    } else {
      result.copy.src = near;
    }
    return result;
  }

  // One part of a run through a slot that holds its far bytes and no others.
  void AddCompact(const BoundMove& move, const FarRun& part, WireWay way) {
    const int64_t item = FarItem(move);
    FarRun to_slot;
    to_slot.far_offset_bytes = part.far_offset_bytes;
    FarRun slot_to_near = part;
    slot_to_near.far_offset_bytes = 0;
    int64_t slot_bytes = item;
    for (size_t i = part.modes.size(); i-- > 0;) {
      const FarMode& mode = part.modes[i];
      if (mode.far_stride_bytes == 0) continue;
      slot_to_near.modes[i].far_stride_bytes = slot_bytes;
      to_slot.modes.insert(to_slot.modes.begin(),
                           {mode.extent, mode.far_stride_bytes, slot_bytes});
      slot_bytes *= mode.extent;
    }
    Transfer transfer = NewTransfer(move, way);
    SetWire(to_slot, item, slot_bytes, transfer);
    transfer.dst_bytes = MeasureRun(part, item, Measure::kAllBytes);
    transfer.copies_begin = static_cast<int64_t>(out_.copies.size());
    out_.copies.push_back(MakeSlotCopy(move, slot_to_near));
    transfer.copies_end = transfer.copies_begin + 1;
    Commit(std::move(transfer));
  }

  void AddSpan(const BoundMove& move, const FarRun& part,
               bool direct_if_alone) {
    const int64_t item = FarItem(move);
    Span span;
    span.direct_if_alone = direct_if_alone;
    span.transfer = NewTransfer(move, WireWay::kSpan);
    SetWire(part, item, MeasureRun(part, item, Measure::kFarSpan),
            span.transfer);
    span.transfer.dst_bytes = MeasureRun(part, item, Measure::kAllBytes);
    span.wanted_bytes = MeasureRun(part, item, Measure::kFarBytes);
    FarRun slot_to_near = part;
    slot_to_near.far_offset_bytes = 0;
    span.copies.push_back(MakeSlotCopy(move, slot_to_near));
    spans_.push_back(std::move(span));
  }

  // Spans that touch, overlap or nearly touch become one Get: a few gap bytes
  // cost less than an operation.
  void JoinSpans() {
    std::stable_sort(
        spans_.begin(), spans_.end(), [](const Span& a, const Span& b) {
          return std::pair(a.transfer.region, a.transfer.far_offset_bytes) <
                 std::pair(b.transfer.region, b.transfer.far_offset_bytes);
        });
    const int64_t gap = cost_.gap_worth_reading_bytes();
    for (size_t first = 0; first < spans_.size();) {
      Span& span = spans_[first];
      const int64_t begin = span.transfer.far_offset_bytes;
      int64_t end = span.far_end();
      size_t next = first + 1;
      for (; next < spans_.size(); ++next) {
        Span& other = spans_[next];
        const int64_t joined_end = std::max(end, other.far_end());
        const int64_t offset = other.transfer.far_offset_bytes - begin;
        if (other.transfer.region != span.transfer.region ||
            begin + offset > end + gap ||
            joined_end - begin > max_slot_bytes_) {
          break;
        }
        end = joined_end;
        out_.joined_moves.push_back(span.transfer.move);
        out_.joined_moves.push_back(other.transfer.move);
        span.direct_if_alone = false;
        span.transfer.dst_bytes += other.transfer.dst_bytes;
        span.wanted_bytes += other.wanted_bytes;
        for (SlotCopy& copy : other.copies) {
          copy.slot_offset_bytes += offset;
          span.copies.push_back(std::move(copy));
        }
      }
      CommitSpan(span, end - begin);
      first = next;
    }
    spans_.clear();
  }

  void CommitSpan(Span& span, int64_t span_bytes) {
    Transfer& transfer = span.transfer;
    transfer.piece_bytes = span_bytes;
    transfer.wire_bytes = span_bytes;
    if (span.direct_if_alone) {
      transfer.way = WireWay::kDirect;
      transfer.slot_bytes = 0;
      transfer.near = span.copies.front().copy.dst;
      transfer.near_region = binding_.moves[transfer.move].near_region;
    } else {
      transfer.slot_bytes = span_bytes;
      out_.over_reads |= span.wanted_bytes < span_bytes;
      transfer.copies_begin = static_cast<int64_t>(out_.copies.size());
      out_.copies.insert(out_.copies.end(),
                         std::make_move_iterator(span.copies.begin()),
                         std::make_move_iterator(span.copies.end()));
      transfer.copies_end = static_cast<int64_t>(out_.copies.size());
    }
    Commit(std::move(transfer));
  }

  absl::Status CompileConversion(const BoundMove& move) {
    if (move.box.empty()) return absl::OkStatus();
    const int64_t item = FarItem(move);
    const layout::IndexMap& far_map = pull() ? *move.src_map : *move.dst_map;
    WEFT_ASSIGN_OR_RETURN(
        const Image whole,
        MakeImage(layout::Restrict(far_map, move.box).front(), item, false));
    WireQuestion question;
    question.far = ShapeOf(whole.run, item);
    question.shared_piece_bytes = item;
    question.max_slot_bytes = max_slot_bytes_;
    const WireWay way = Choose(question);
    int64_t max_elements = max_slot_bytes_ / item;
    if (way == WireWay::kSpan) {
      const int64_t stretch =
          base::CeilDiv(question.far.span_bytes, question.far.far_bytes());
      max_elements = std::max<int64_t>(1, max_elements / stretch);
    }
    for (const tensor::Box& box : CutBox(move.box, far_map, max_elements)) {
      for (const layout::IndexMap& part : layout::Restrict(far_map, box)) {
        WEFT_RETURN_IF_ERROR(AddBlock(move, part, way));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddBlock(const BoundMove& move, const layout::IndexMap& part,
                        WireWay way) {
    const int64_t item = FarItem(move);
    WEFT_ASSIGN_OR_RETURN(Image image,
                          MakeImage(part, item, way == WireWay::kSpan));
    if (image.bytes > max_slot_bytes_) {  // a span with wide gaps
      way = WireWay::kPieces;
      WEFT_ASSIGN_OR_RETURN(image, MakeImage(part, item, false));
    }
    WEFT_ASSIGN_OR_RETURN(
        const std::vector<layout::Run> runs,
        pull()
            ? layout::CommonRuns(image.map, *move.dst_map, kMaxRunsPerBlock)
            : layout::CommonRuns(*move.src_map, image.map, kMaxRunsPerBlock));
    Transfer transfer = NewTransfer(move, way);
    image.run.far_offset_bytes += move.far_offset_bytes;
    SetWire(image.run, item, image.bytes, transfer);
    out_.over_reads |= way == WireWay::kSpan &&
                       image.bytes > ShapeOf(image.run, item).far_bytes();
    const int64_t elements = part.box().num_elements();
    transfer.dst_bytes = elements * tensor::ItemBytes(move.conversion.to);
    transfer.copies_begin = static_cast<int64_t>(out_.copies.size());
    for (const layout::Run& run : runs) {
      out_.copies.push_back(MakeSlotCopy(
          move, MakeFarRun(run, move.conversion, binding_.direction, 0, 0)));
    }
    transfer.copies_end = static_cast<int64_t>(out_.copies.size());
    AddDigests(move, part.box(), std::move(image.map), transfer);
    Commit(std::move(transfer));
    return absl::OkStatus();
  }

  void AddDigests(const BoundMove& move, const tensor::Box& box,
                  layout::IndexMap slot_map, Transfer& transfer) {
    transfer.digests_begin = static_cast<int64_t>(out_.digests.size());
    const tensor::DType dtype = move.conversion.from;
    if (pull()) {
      out_.digests.push_back(
          {nullptr, std::move(slot_map), dtype, move.converted_table});
    } else {
      for (layout::IndexMap& part : layout::Restrict(*move.src_map, box)) {
        out_.digests.push_back(
            {move.near, std::move(part), dtype, move.converted_table});
      }
    }
    transfer.digests_end = static_cast<int64_t>(out_.digests.size());
  }

  const Binding& binding_;
  const WireCost& cost_;
  const PostedWay forced_;
  const int64_t max_slot_bytes_;
  const int64_t direct_threshold_bytes_;
  PeerTransfers out_;
  std::vector<Span> spans_;
  int32_t index_ = 0;
};

}  // namespace

WireOp Transfer::Op(int64_t index) const {
  int64_t piece = index / ops_per_piece;
  // Nearly equal cuts, each a multiple of 64 bytes but the last.
  const int64_t cut_bytes =
      ops_per_piece == 1
          ? piece_bytes
          : base::AlignUp(base::CeilDiv(piece_bytes, ops_per_piece), 64);
  const int64_t begin = index % ops_per_piece * cut_bytes;
  WireOp op{far_offset_bytes + begin, begin,
            std::min(cut_bytes, piece_bytes - begin)};
  for (size_t i = modes.size(); i-- > 0;) {
    const int64_t digit = piece % modes[i].extent;
    piece /= modes[i].extent;
    op.far_offset_bytes += digit * modes[i].far_stride_bytes;
    op.local_offset_bytes += digit * modes[i].local_stride_bytes;
  }
  return op;
}

transport::StridedPieces PiecesOf(const Transfer& transfer) {
  transport::StridedPieces pieces;
  pieces.offset_bytes = transfer.far_offset_bytes;
  pieces.piece_bytes = transfer.piece_bytes;
  for (const Transfer::Mode& mode : transfer.modes) {
    pieces.modes.push_back({mode.extent, mode.far_stride_bytes});
  }
  return pieces;
}

std::string WayOf(bool mapped, const PeerTransfers& transfers,
                  Direction direction) {
  const bool push = direction == Direction::kPush;
  std::vector<std::string> words;
  const auto used = [&](WireWay way) {
    return transfers.ways[static_cast<size_t>(way)];
  };
  if (mapped) words.push_back("mapped");
  if (used(WireWay::kDirect)) {
    words.push_back(!transfers.short_direct ? "direct"
                    : push                  ? "short puts"
                                            : "short gets");
  }
  if (used(WireWay::kPieces)) words.push_back(push ? "packed" : "staged");
  if (used(WireWay::kSpan)) {
    words.push_back(transfers.over_reads ? "over-read" : "staged");
  }
  if (used(WireWay::kGather)) words.push_back("gather");
  words.erase(std::unique(words.begin(), words.end()), words.end());
  return absl::StrJoin(words, "+");
}

absl::StatusOr<PeerTransfers> CompilePosted(const Binding& binding, int peer,
                                            const WireCost& cost,
                                            PostedWay forced,
                                            int64_t max_slot_bytes) {
  return PostedCompiler(binding, cost, forced, max_slot_bytes).Compile(peer);
}

}  // namespace weft::execute
