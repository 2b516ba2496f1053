#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "weft/convert/cpu/simd.h"
#include "weft/convert/digest.h"
#include "weft/tensor/tile_grid.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "weft/convert/cpu/digest_band.cc"
#include "hwy/foreach_target.h"
// foreach_target.h first.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace weft::convert::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

static_assert(std::endian::native == std::endian::little,
              "words are read as they lie in memory");

// How the sums are taken. A vector holds 32-bit words; MulEven gives the
// 64-bit products of the even ones, and of the odd ones after a shift. Both
// sums then share one vector, its even lanes for s = 0 and its odd lanes for
// s = 1, and the last two lanes are laid out as a DigestValue.

using D64 = hn::ScalableTag<uint64_t>;
using D128 = hn::Full128<uint64_t>;

template <class D>
HWY_INLINE hn::Vec<hn::Repartition<uint32_t, D>> LoadWords(
    D /*d64*/, const std::byte* bytes) {
  const hn::Repartition<uint8_t, D> d8;
  const hn::Repartition<uint32_t, D> d32;
  return hn::BitCast(d32,
                     hn::LoadU(d8, reinterpret_cast<const uint8_t*>(bytes)));
}

template <class D, class V32>
HWY_INLINE V32 OddWords(D d64, V32 words) {
  const hn::Repartition<uint32_t, D> d32;
  return hn::BitCast(d32, hn::ShiftRight<32>(hn::BitCast(d64, words)));
}

template <class V32>
HWY_INLINE auto WeightedSum(V32 even, V32 odd, V32 even_weights,
                            V32 odd_weights) {
  return hn::Add(hn::MulEven(even, even_weights),
                 hn::MulEven(odd, odd_weights));
}

// Lanes s0, s1, s0, s1, ... of the pairwise sums.
template <class D, class V64>
HWY_INLINE V64 Interleave(D d64, V64 sum0, V64 sum1) {
  return hn::Add(hn::InterleaveLower(d64, sum0, sum1),
                 hn::InterleaveUpper(d64, sum0, sum1));
}

// The sum over a vector's pairs of lanes.
HWY_INLINE hn::Vec<D128> SumPairs(D128 /*d128*/, hn::Vec<D128> lanes) {
  return lanes;
}
template <class D, class V64>
HWY_INLINE hn::Vec<D128> SumPairs(D d64, V64 lanes) {
  const hn::Half<D> half;
  return SumPairs(
      half, hn::Add(hn::LowerHalf(half, lanes), hn::UpperHalf(half, lanes)));
}

HWY_INLINE void AddTo(DigestValue& value, hn::Vec<D128> pair) {
  const D128 d128;
  hn::StoreU(hn::Add(hn::LoadU(d128, value.sum), pair), d128, value.sum);
}

// Row weights as pairs R[0][r], R[1][r].
struct RowWeights {
  HWY_ALIGN uint64_t pairs[2 * tensor::kTileRows];
};

HWY_INLINE void PairRowWeights(const DigestConstants& constants, int row,
                               int num_rows, RowWeights& weights) {
  for (int r = 0; r < num_rows; ++r) {
    weights.pairs[2 * r] = constants.row[0][static_cast<size_t>(row + r)];
    weights.pairs[2 * r + 1] = constants.row[1][static_cast<size_t>(row + r)];
  }
}

template <class D>
HWY_INLINE hn::Vec<D> LoadWeightPair(D d64, const uint64_t* pair) {
  return hn::LoadDup128(d64, pair);
}

// Words of four tile rows, `stride_bytes` apart, summed into one vector each:
// the loads and shifts of the column weights are shared.
struct FourSums {
  hn::Vec<D128> a, b, c, e;
};

HWY_INLINE FourSums SumFour(const DigestConstants& constants,
                            const std::byte* data, int64_t stride_bytes,
                            int64_t num_words) {
  const D64 d64;
  const hn::Repartition<uint32_t, D64> d32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d32));
  auto a0 = hn::Zero(d64), a1 = hn::Zero(d64);
  auto b0 = hn::Zero(d64), b1 = hn::Zero(d64);
  auto c0 = hn::Zero(d64), c1 = hn::Zero(d64);
  auto e0 = hn::Zero(d64), e1 = hn::Zero(d64);
  for (int64_t word = 0; word < num_words; word += lanes) {
    const auto even0 = hn::Load(d32, constants.col[0].data() + word);
    const auto even1 = hn::Load(d32, constants.col[1].data() + word);
    const auto odd0 = OddWords(d64, even0);
    const auto odd1 = OddWords(d64, even1);
    const std::byte* bytes = data + 4 * word;
    const auto a = LoadWords(d64, bytes);
    const auto b = LoadWords(d64, bytes + stride_bytes);
    const auto c = LoadWords(d64, bytes + 2 * stride_bytes);
    const auto e = LoadWords(d64, bytes + 3 * stride_bytes);
    const auto a_odd = OddWords(d64, a);
    const auto b_odd = OddWords(d64, b);
    const auto c_odd = OddWords(d64, c);
    const auto e_odd = OddWords(d64, e);
    a0 = hn::Add(a0, WeightedSum(a, a_odd, even0, odd0));
    a1 = hn::Add(a1, WeightedSum(a, a_odd, even1, odd1));
    b0 = hn::Add(b0, WeightedSum(b, b_odd, even0, odd0));
    b1 = hn::Add(b1, WeightedSum(b, b_odd, even1, odd1));
    c0 = hn::Add(c0, WeightedSum(c, c_odd, even0, odd0));
    c1 = hn::Add(c1, WeightedSum(c, c_odd, even1, odd1));
    e0 = hn::Add(e0, WeightedSum(e, e_odd, even0, odd0));
    e1 = hn::Add(e1, WeightedSum(e, e_odd, even1, odd1));
  }
  return {SumPairs(d64, Interleave(d64, a0, a1)),
          SumPairs(d64, Interleave(d64, b0, b1)),
          SumPairs(d64, Interleave(d64, c0, c1)),
          SumPairs(d64, Interleave(d64, e0, e1))};
}

// Adds whole vectors of one row to sum0 and sum1; returns the words done.
template <class D, class V64>
HWY_INLINE int64_t AddWords(D d64, const std::byte* bytes, int64_t num_words,
                            const uint32_t* weights0, const uint32_t* weights1,
                            V64& sum0, V64& sum1) {
  const hn::Repartition<uint32_t, D> d32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d32));
  int64_t word = 0;
  for (; word + lanes <= num_words; word += lanes) {
    const auto words = LoadWords(d64, bytes + 4 * word);
    const auto odd = OddWords(d64, words);
    const auto even0 = hn::LoadU(d32, weights0 + word);
    const auto even1 = hn::LoadU(d32, weights1 + word);
    sum0 = hn::Add(sum0, WeightedSum(words, odd, even0, OddWords(d64, even0)));
    sum1 = hn::Add(sum1, WeightedSum(words, odd, even1, OddWords(d64, even1)));
  }
  return word;
}

// A word of which only `num_bytes` bytes are there, from byte `first` on.
HWY_INLINE uint64_t PartOfWord(const std::byte* bytes, int64_t first,
                               int64_t num_bytes) {
  uint32_t word = 0;
  for (int64_t i = 0; i < num_bytes; ++i) {
    word |= static_cast<uint32_t>(bytes[i]) << (8 * (first + i));
  }
  return word;
}

void PartialTile(const DigestConstants& constants, const DigestRows& rows,
                 DigestValue& value) {
  const D64 d64;
  const D128 d128;
  RowWeights row_weights;
  PairRowWeights(constants, rows.row, rows.num_rows, row_weights);
  const int64_t skipped = rows.first_byte % 4;
  const int64_t head_bytes =
      skipped == 0 ? 0 : std::min<int64_t>(4 - skipped, rows.row_bytes);
  const int64_t head_word = rows.first_byte / 4;
  const int64_t first_word = head_word + (skipped == 0 ? 0 : 1);
  const int64_t num_words = (rows.row_bytes - head_bytes) / 4;
  const int64_t tail_bytes = (rows.row_bytes - head_bytes) % 4;
  const uint32_t* const weights0 = constants.col[0].data();
  const uint32_t* const weights1 = constants.col[1].data();
  auto total = hn::Zero(d64);
  auto total128 = hn::Zero(d128);
  for (int r = 0; r < rows.num_rows; ++r) {
    const std::byte* bytes = rows.data + r * rows.row_stride_bytes;
    uint64_t x0 = 0, x1 = 0;
    if (head_bytes > 0) {
      const uint64_t word = PartOfWord(bytes, skipped, head_bytes);
      x0 = word * weights0[head_word];
      x1 = word * weights1[head_word];
      bytes += head_bytes;
    }
    auto sum0 = hn::Zero(d64), sum1 = hn::Zero(d64);
    int64_t done = AddWords(d64, bytes, num_words, weights0 + first_word,
                            weights1 + first_word, sum0, sum1);
    auto sum0_128 = hn::Zero(d128), sum1_128 = hn::Zero(d128);
    done += AddWords(d128, bytes + 4 * done, num_words - done,
                     weights0 + first_word + done, weights1 + first_word + done,
                     sum0_128, sum1_128);
    for (; done <= num_words; ++done) {
      const int64_t there = done < num_words ? 4 : tail_bytes;
      if (there == 0) break;
      const uint64_t word = PartOfWord(bytes + 4 * done, 0, there);
      x0 += word * weights0[first_word + done];
      x1 += word * weights1[first_word + done];
    }
    const uint64_t* const pair = row_weights.pairs + 2 * r;
    total = hn::Add(
        total, hn::Mul(Interleave(d64, sum0, sum1), LoadWeightPair(d64, pair)));
    total128 = hn::Add(total128, hn::Mul(Interleave(d128, sum0_128, sum1_128),
                                         LoadWeightPair(d128, pair)));
    value.sum[0] += x0 * pair[0];
    value.sum[1] += x1 * pair[1];
  }
  AddTo(value, hn::Add(SumPairs(d64, total), total128));
}

// Tile rows up to this size are taken four at a time; more apart, they would
// be four streams that memory does not read ahead.
inline constexpr int64_t kFourTileBytes = 256;

// A page ahead: hardware prefetchers stop at the end of one, and the sums are
// too many instructions a line for the core to look across it by itself (EPYC,
// bf16: from 0.80 of the read bandwidth to 0.94). Past the end it does nothing.
inline constexpr int64_t kPrefetchBytes = 4096;

// One row over many tiles, from the first byte to the last: memory is fastest
// when it is read in order.
HWY_INLINE void AddRow(const DigestConstants& constants, const std::byte* data,
                       int64_t tile_bytes, hn::Vec<D128> weight,
                       absl::Span<DigestValue> values) {
  const D64 d64;
  const int64_t num_words = tile_bytes / 4;
  DigestValue* value = values.data();
  DigestValue* const end = value + values.size();
  if (tile_bytes <= kFourTileBytes) {
    for (; end - value >= 4; value += 4) {
      for (int64_t line = 0; line < 4 * tile_bytes; line += 64) {
        __builtin_prefetch(data + line + kPrefetchBytes);
      }
      const FourSums four = SumFour(constants, data, tile_bytes, num_words);
      AddTo(value[0], hn::Mul(four.a, weight));
      AddTo(value[1], hn::Mul(four.b, weight));
      AddTo(value[2], hn::Mul(four.c, weight));
      AddTo(value[3], hn::Mul(four.e, weight));
      data += 4 * tile_bytes;
    }
  }
  for (; value != end; ++value) {
    auto sum0 = hn::Zero(d64), sum1 = hn::Zero(d64);
    AddWords(d64, data, num_words, constants.col[0].data(),
             constants.col[1].data(), sum0, sum1);
    AddTo(*value, hn::Mul(SumPairs(d64, Interleave(d64, sum0, sum1)), weight));
    data += tile_bytes;
  }
}

void WholeTiles(const DigestConstants& constants, const DigestRows& rows,
                absl::Span<DigestValue> values) {
  const D128 d128;
  RowWeights row_weights;
  PairRowWeights(constants, rows.row, rows.num_rows, row_weights);
  const std::byte* data = rows.data;
  int r = 0;
  // One small tile: four of its rows at a time instead.
  const bool one = values.size() == 1 && rows.row_bytes <= kFourTileBytes;
  for (; one && r + 4 <= rows.num_rows; r += 4) {
    const FourSums four =
        SumFour(constants, data, rows.row_stride_bytes, rows.row_bytes / 4);
    const uint64_t* const pairs = row_weights.pairs + 2 * r;
    AddTo(values[0], hn::Mul(four.a, hn::Load(d128, pairs)));
    AddTo(values[0], hn::Mul(four.b, hn::Load(d128, pairs + 2)));
    AddTo(values[0], hn::Mul(four.c, hn::Load(d128, pairs + 4)));
    AddTo(values[0], hn::Mul(four.e, hn::Load(d128, pairs + 6)));
    data += 4 * rows.row_stride_bytes;
  }
  for (; r < rows.num_rows; ++r, data += rows.row_stride_bytes) {
    AddRow(constants, data, rows.row_bytes,
           hn::Load(d128, row_weights.pairs + 2 * r), values);
  }
}

}  // namespace weft::convert::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace weft::convert::cpu {

HWY_EXPORT(PartialTile);
HWY_EXPORT(WholeTiles);

void DigestPartialTile(const DigestConstants& constants, const DigestRows& rows,
                       DigestValue& value) {
  HWY_DYNAMIC_DISPATCH(PartialTile)(constants, rows, value);
}

void DigestWholeTiles(const DigestConstants& constants, const DigestRows& rows,
                      absl::Span<DigestValue> values) {
  HWY_DYNAMIC_DISPATCH(WholeTiles)(constants, rows, values);
}

}  // namespace weft::convert::cpu
#endif  // HWY_ONCE
