#include <algorithm>
#include <cstddef>
#include <numeric>
#include <tuple>
#include <utility>

#include "weft/base/checked.h"
#include "weft/layout/dim_runs_internal.h"

namespace weft::layout::internal {
namespace {

// Nested blocks with different phases: up to this many cuts keep the runs as
// long as they are, beyond it two shorter segments a period keep them few.
constexpr int64_t kMaxPhaseCuts = 64;

// Folding happens after refinement, so a few more results than allowed may
// come out of it. Keeps small limits exact without letting large ones grow.
constexpr int64_t kFoldSlack = 4096;

// x -> offset + OffsetOf(digits, index + step*x).
struct Side {
  DimModes digits;
  int64_t index = 0;
  int64_t step = 1;
  int64_t offset = 0;

  bool linear() const { return digits.size() <= 1; }
  // Extent of the innermost digit when there are others to carry into.
  int64_t block() const { return digits[0].extent; }
  int64_t stride() const { return digits.empty() ? 0 : digits[0].stride; }
  // True after Simplify if a step skips over digits in an irregular way.
  bool skips() const { return !linear() && step != 1; }
  // Coordinates up to the next multiple of block().
  int64_t head() const { return (block() - index % block()) % block(); }
};

// Digits above the one that changes over `count` coordinates are constant.
void DropConstantHighDigits(Side& side, int64_t count) {
  int64_t last = side.index + side.step * (count - 1);
  while (side.digits.size() > 1) {
    const Mode& top = side.digits.back();
    const int64_t block = ExtentOf(side.digits) / top.extent;
    const int64_t value = side.index / block;
    if (value != last / block) return;
    side.offset += value * top.stride;
    side.index -= value * block;
    last -= value * block;
    side.digits.pop_back();
  }
}

// Same function over `count` coordinates with step 1, unless skips().
void Simplify(Side& side, int64_t count) {
  if (count == 1) side.step = 1;  // never taken
  DropConstantHighDigits(side, count);
  while (side.skips()) {
    Mode& low = side.digits.front();
    const int64_t common = std::gcd(side.step, low.extent);
    if (common == 1) return;
    side.offset += side.index % common * low.stride;
    side.index /= common;
    side.step /= common;
    if (low.extent == common) {
      side.digits.erase(side.digits.begin());
    } else {
      low.extent /= common;
      low.stride *= common;
    }
  }
  if (side.linear() && !side.digits.empty()) {
    Mode& only = side.digits.front();
    side.offset += side.index * only.stride;
    if (count > 1) only.stride *= side.step;
    side.index = 0;
    side.step = 1;
  }
}

struct Piece {
  int64_t count = 0;
  Side src;
  Side dst;
  absl::InlinedVector<RunMode, 3> inner;
};

// The coordinates begin + step*x, 0 <= x < count, of `piece`.
Piece Slice(const Piece& piece, int64_t begin, int64_t count,
            int64_t step = 1) {
  Piece slice = piece;
  slice.count = count;
  for (Side* side : {&slice.src, &slice.dst}) {
    side->index += side->step * begin;
    // A single coordinate takes no step, and its product might not fit.
    if (count > 1) side->step *= step;
  }
  return slice;
}

class Refiner {
 public:
  explicit Refiner(int64_t max_runs) : max_runs_(max_runs) {}

  void Refine(Piece piece);
  bool exhausted() const { return exhausted_; }
  std::vector<DimRun> TakeRuns() { return std::move(runs_); }

 private:
  void Emit(Piece piece);
  void RefineNested(const Piece& piece);
  // First `head` coordinates, then whole periods as one problem, then the rest.
  void Repeat(const Piece& piece, int64_t head, int64_t period);
  void CutIntoBlocks(const Piece& piece, int64_t head, int64_t block);
  // One problem for each residue of the coordinate.
  void SplitResidues(const Piece& piece, int64_t modulus);

  int64_t max_runs_;
  bool exhausted_ = false;
  std::vector<DimRun> runs_;
};

void Refiner::Emit(Piece piece) {
  if (static_cast<int64_t>(runs_.size()) >= max_runs_) {
    exhausted_ = true;
    return;
  }
  if (piece.count > 1) {
    piece.inner.push_back(
        {piece.count, piece.src.stride(), piece.dst.stride()});
  }
  runs_.push_back({piece.src.offset, piece.dst.offset, std::move(piece.inner)});
}

void Refiner::Refine(Piece piece) {
  if (exhausted_ || piece.count == 0) return;
  Simplify(piece.src, piece.count);
  Simplify(piece.dst, piece.count);
  if (piece.src.linear() && piece.dst.linear()) {
    Emit(std::move(piece));
  } else if (piece.src.skips()) {
    SplitResidues(piece, piece.src.block());
  } else if (piece.dst.skips()) {
    SplitResidues(piece, piece.dst.block());
  } else if (piece.src.linear() || piece.dst.linear()) {
    const Side& blocked = piece.src.linear() ? piece.dst : piece.src;
    Repeat(piece, blocked.head(), blocked.block());
  } else {
    RefineNested(piece);
  }
}

void Refiner::RefineNested(const Piece& piece) {
  const bool src_is_small = piece.src.block() <= piece.dst.block();
  const Side& small = src_is_small ? piece.src : piece.dst;
  const Side& large = src_is_small ? piece.dst : piece.src;
  if (large.block() % small.block() == 0) {
    const bool in_phase =
        large.index % small.block() == small.index % small.block();
    if (in_phase || piece.count / large.block() > kMaxPhaseCuts) {
      Repeat(piece, small.head(), small.block());
    } else {
      CutIntoBlocks(piece, large.head(), large.block());
    }
    return;
  }
  const std::optional<int64_t> period = base::CheckedMul(
      small.block() / std::gcd(small.block(), large.block()), large.block());
  if (period && (piece.count - large.head()) / *period >= 2) {
    Repeat(piece, large.head(), *period);
  } else {
    CutIntoBlocks(piece, large.head(), large.block());
  }
}

void Refiner::Repeat(const Piece& piece, int64_t head, int64_t period) {
  head = std::min(head, piece.count);
  Refine(Slice(piece, 0, head));
  const int64_t periods = (piece.count - head) / period;
  if (periods == 1) {
    Refine(Slice(piece, head, period));
  } else if (periods > 1) {
    // Distance from `begin` to the next place where `side` may break. A block
    // that the period does not fill breaks in some periods only; it is split
    // at the period, so that all periods look alike.
    const auto until_break = [period](const Side& side, int64_t begin) {
      if (side.linear()) return period;
      const int64_t block = period % side.block() == 0 ? side.block() : period;
      return block - (side.index + begin) % block;
    };
    for (int64_t begin = head; begin < head + period && !exhausted_;) {
      const int64_t length =
          std::min({head + period - begin, until_break(piece.src, begin),
                    until_break(piece.dst, begin)});
      Piece segment = Slice(piece, begin, periods, period);
      if (length > 1) {
        segment.inner.push_back(
            {length, piece.src.stride(), piece.dst.stride()});
      }
      Refine(std::move(segment));
      begin += length;
    }
  }
  const int64_t done = head + periods * period;
  Refine(Slice(piece, done, piece.count - done));
}

void Refiner::CutIntoBlocks(const Piece& piece, int64_t head, int64_t block) {
  head = std::min(head, piece.count);
  Refine(Slice(piece, 0, head));
  for (int64_t begin = head; begin < piece.count && !exhausted_;) {
    const int64_t length = std::min(block, piece.count - begin);
    Refine(Slice(piece, begin, length));
    begin += length;
  }
}

void Refiner::SplitResidues(const Piece& piece, int64_t modulus) {
  const int64_t residues = std::min(modulus, piece.count);
  for (int64_t residue = 0; residue < residues && !exhausted_; ++residue) {
    Refine(Slice(piece, residue, base::CeilDiv(piece.count - residue, modulus),
                 modulus));
  }
}

bool ModesBefore(const DimRun& a, const DimRun& b) {
  return std::lexicographical_compare(
      a.modes.begin(), a.modes.end(), b.modes.begin(), b.modes.end(),
      [](const RunMode& x, const RunMode& y) {
        return std::tie(x.extent, x.src_stride, x.dst_stride) <
               std::tie(y.extent, y.src_stride, y.dst_stride);
      });
}

bool RunBefore(const DimRun& a, const DimRun& b) {
  if (ModesBefore(a, b)) return true;
  if (ModesBefore(b, a)) return false;
  return std::tie(a.src_offset, a.dst_offset) <
         std::tie(b.src_offset, b.dst_offset);
}

// Runs of equal modes whose offsets advance by a constant step on both sides
// become one run with one more mode.
std::vector<DimRun> FoldOnce(std::vector<DimRun> runs) {
  std::sort(runs.begin(), runs.end(), RunBefore);
  std::vector<DimRun> folded;
  for (std::size_t i = 0; i < runs.size();) {
    std::size_t end = i + 1;
    RunMode step{1, 0, 0};
    while (end < runs.size() && runs[end].modes == runs[i].modes) {
      const int64_t src_step = runs[end].src_offset - runs[end - 1].src_offset;
      const int64_t dst_step = runs[end].dst_offset - runs[end - 1].dst_offset;
      if (end == i + 1) step = {1, src_step, dst_step};
      if (dst_step < 0 || src_step != step.src_stride ||
          dst_step != step.dst_stride) {
        break;
      }
      ++end;
    }
    step.extent = static_cast<int64_t>(end - i);
    DimRun run = std::move(runs[i]);
    if (step.extent > 1) run.modes.push_back(step);
    folded.push_back(std::move(run));
    i = end;
  }
  return folded;
}

}  // namespace

std::optional<std::vector<DimRun>> RefineDimension(DimSide src, DimSide dst,
                                                   int64_t extent,
                                                   int64_t max_runs) {
  Refiner refiner(base::CheckedAdd(max_runs, kFoldSlack).value_or(max_runs));
  refiner.Refine(
      {extent, {src.modes, src.begin, 1, 0}, {dst.modes, dst.begin, 1, 0}, {}});
  if (refiner.exhausted()) return std::nullopt;
  std::vector<DimRun> runs = refiner.TakeRuns();
  for (std::size_t before = 0; runs.size() > 1 && runs.size() != before;) {
    before = runs.size();
    runs = FoldOnce(std::move(runs));
  }
  if (static_cast<int64_t>(runs.size()) > max_runs) return std::nullopt;
  return runs;
}

}  // namespace weft::layout::internal
