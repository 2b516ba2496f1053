// Programs of many parts at once, against the reference kernels one part after
// the other.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "weft/convert/cuda/testing/runner.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"

namespace weft::convert::cuda::testing {
namespace {

using tensor::DType;
using tensor::kTileCols;
using tensor::kTileRows;

constexpr int64_t kMemoryBytes = int64_t{8} << 20;
constexpr DType kFloats[] = {DType::kBF16, DType::kF16, DType::kF32};

// A spec under construction over two memories, and what its run must yield.
class Case {
 public:
  explicit Case(uint64_t seed)
      : random_(seed), constants_(DigestConstants::FromSeed(seed)) {
    src_.resize(kMemoryBytes);
    dst_.resize(kMemoryBytes);
    for (auto* memory : {&src_, &dst_}) {
      for (size_t i = 0; i < memory->size(); i += 8) {
        const uint64_t word = random_();
        std::memcpy(memory->data() + i, &word, 8);
      }
    }
    expected_ = dst_;
  }

  int64_t Pick(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  template <typename T, size_t N>
  T OneOf(const T (&all)[N]) {
    return all[static_cast<size_t>(Pick(0, N - 1))];
  }
  bool Chance(int percent) { return Pick(1, 100) <= percent; }

  // Reserves `bytes` in a memory, at a multiple of `alignment` or just behind
  // one; null when it is full.
  const std::byte* TakeSrc(int64_t bytes, int64_t alignment, int64_t phase) {
    return Take(src_, src_used_, bytes, alignment, phase);
  }
  std::byte* TakeDst(int64_t bytes, int64_t alignment, int64_t phase) {
    return Take(dst_, dst_used_, bytes, alignment, phase);
  }

  // Small finite values with a few that are not, in place of random bytes.
  void FillFloats(const std::byte* at, int64_t bytes, DType dtype) {
    auto* const to = src_.data() + (at - src_.data());
    const int64_t item = tensor::ItemBytes(dtype);
    std::normal_distribution<float> normal(0, 0.5f);
    for (int64_t i = 0; i + item <= bytes; i += item) {
      float value = normal(random_);
      if (Chance(1) && Chance(1)) {
        constexpr float kSpecials[] = {INFINITY, -INFINITY, NAN, 1e30f, -0.0f};
        value = OneOf(kSpecials);
      }
      StridedCopy one;
      one.src = reinterpret_cast<const std::byte*>(&value);
      one.dst = to + i;
      one.conversion = {DType::kF32, dtype};
      ReferenceKernels().Copy(one);
    }
  }

  DigestPlace NewPlace(int64_t rows, int64_t cols, int64_t col_unit) {
    DigestPlace place;
    place.row_begin = Pick(0, 200);
    place.col_begin = Pick(0, 40) * col_unit;
    place.first_value = spec_.num_values;
    const int64_t down = (place.row_begin % kTileRows + rows + 63) / 64;
    const int64_t across = (place.col_begin % kTileCols + cols + 63) / 64;
    place.values_per_row = across + Pick(0, 2);
    spec_.num_values += (down - 1) * place.values_per_row + across;
    return place;
  }

  // `element(row, col)`: where it lies.
  template <typename Element>
  void ExpectDigest(const DigestPlace& place, int64_t rows, int64_t cols,
                    int item, const Element& element) {
    values_.resize(static_cast<size_t>(spec_.num_values));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < cols; ++col) {
        const int64_t tile_row = place.row_begin % kTileRows + row;
        const int64_t tile_col = place.col_begin % kTileCols + col;
        ReferenceKernels().DigestRow(
            constants_, element(row, col), 1, item,
            static_cast<int>(tile_row % kTileRows),
            static_cast<int>(tile_col % kTileCols),
            values_[static_cast<size_t>(place.first_value +
                                        tile_row / kTileRows *
                                            place.values_per_row +
                                        tile_col / kTileCols)]);
      }
    }
  }

  std::byte* Expected(const std::byte* dst) {
    return expected_.data() + (dst - dst_.data());
  }
  ProgramSpec& spec() { return spec_; }

  void RunAndCompare(Runner& runner, const ProgramOptions& options,
                     int num_sms) {
    values_.resize(static_cast<size_t>(spec_.num_values));
    const Memory memories[] = {
        {src_.data(), static_cast<int64_t>(src_.size()), false},
        {dst_.data(), static_cast<int64_t>(dst_.size()), true}};
    const auto got =
        runner.Run({spec_, memories, &constants_, options, num_sms});
    ASSERT_TRUE(got.ok()) << got.status();
    const auto differs =
        std::mismatch(dst_.begin(), dst_.end(), expected_.begin());
    ASSERT_TRUE(differs.first == dst_.end())
        << "byte " << differs.first - dst_.begin() << " is "
        << static_cast<int>(*differs.first) << ", not "
        << static_cast<int>(*differs.second);
    ASSERT_EQ(got->size(), values_.size());
    for (size_t i = 0; i < values_.size(); ++i) {
      ASSERT_EQ(ToHex((*got)[i]), ToHex(values_[i])) << "value " << i;
    }
  }

 private:
  std::byte* Take(std::vector<std::byte>& memory, int64_t& used, int64_t bytes,
                  int64_t alignment, int64_t phase) {
    const auto address = reinterpret_cast<uintptr_t>(memory.data()) +
                         static_cast<uintptr_t>(used) + 16;
    const auto unit = static_cast<uintptr_t>(alignment);
    const auto at =
        static_cast<int64_t>((address + unit - 1) / unit * unit) + phase -
        static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory.data()));
    if (at + bytes + 16 > static_cast<int64_t>(memory.size())) return nullptr;
    used = at + bytes;
    return memory.data() + at;
  }

  std::mt19937_64 random_;
  DigestConstants constants_;
  std::vector<std::byte> src_;
  std::vector<std::byte> dst_;
  std::vector<std::byte> expected_;
  int64_t src_used_ = 0;
  int64_t dst_used_ = 0;
  ProgramSpec spec_;
  std::vector<DigestValue> values_;
};

tensor::Conversion RandomConversion(Case& random) {
  if (random.Chance(50)) {
    constexpr DType kSame[] = {DType::kU8, DType::kBF16, DType::kBF16,
                               DType::kF32, DType::kU64};
    const DType dtype = random.OneOf(kSame);
    return {dtype, dtype};
  }
  constexpr tensor::Transform kTransforms[] = {
      tensor::Transform::kNone, tensor::Transform::kNone,
      tensor::Transform::kPlusOne, tensor::Transform::kMinusOne};
  return {random.OneOf(kFloats), random.OneOf(kFloats),
          random.OneOf(kTransforms)};
}

// Strides for `extents` stored in the order `order` (outermost first), with
// padding now and then; the bytes that it takes.
int64_t MakeStrides(Case& random, const std::vector<int64_t>& extents,
                    const std::vector<size_t>& order, int64_t item,
                    std::vector<int64_t>& strides) {
  strides.assign(extents.size(), 0);
  int64_t step = item;
  for (size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = step;
    step *= extents[order[i]];
    if (random.Chance(30)) step += random.Pick(1, 3) * item;
    if (random.Chance(10)) step += random.Pick(1, 15);
  }
  return step;
}

void AddCopy(Case& random) {
  const tensor::Conversion conversion = RandomConversion(random);
  const int64_t from = tensor::ItemBytes(conversion.from);
  const int64_t to = tensor::ItemBytes(conversion.to);
  const auto rank = static_cast<size_t>(random.Pick(1, 5));
  std::vector<int64_t> extents(rank);
  const int64_t most = rank <= 2 ? 400 : rank == 3 ? 70 : 12;
  for (int64_t& extent : extents) extent = random.Pick(1, most);
  if (random.Chance(2)) extents[0] = 0;
  std::vector<size_t> order(rank);
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<size_t> dst_order = order;
  for (size_t i = rank; i > 1; --i) {
    if (random.Chance(40)) {
      std::swap(dst_order[i - 1], dst_order[static_cast<size_t>(random.Pick(
                                      0, static_cast<int64_t>(i) - 1))]);
    }
  }
  std::vector<int64_t> src_strides;
  std::vector<int64_t> dst_strides;
  const int64_t src_bytes =
      MakeStrides(random, extents, order, from, src_strides);
  const int64_t dst_bytes =
      MakeStrides(random, extents, dst_order, to, dst_strides);
  StridedCopy copy;
  copy.conversion = conversion;
  const int64_t alignment = random.Chance(50) ? 16 : from;
  copy.src = random.TakeSrc(src_bytes, alignment,
                            random.Chance(20) ? random.Pick(0, 15) : 0);
  copy.dst = random.TakeDst(dst_bytes, random.Chance(50) ? 16 : to,
                            random.Chance(20) ? random.Pick(0, 15) : 0);
  if (copy.src == nullptr || copy.dst == nullptr) return;
  for (size_t i = 0; i < rank; ++i) {
    copy.modes.push_back({extents[i], src_strides[i], dst_strides[i]});
  }
  random.spec().copies.push_back({copy, {}});
  StridedCopy expected = copy;
  expected.dst = random.Expected(copy.dst);
  ReferenceKernels().Copy(expected);
}

void AddDigestedCopy(Case& random, bool aligned) {
  tensor::Conversion conversion = RandomConversion(random);
  const int64_t from = tensor::ItemBytes(conversion.from);
  const int64_t to = tensor::ItemBytes(conversion.to);
  const int64_t rows = random.Pick(1, 200);
  const int64_t cols = random.Pick(1, 300);
  const DigestPlace place =
      random.NewPlace(rows, cols, aligned ? 16 / std::min(from, to) : 1);
  // As far into 16 bytes as the plane's first column is.
  const int64_t unit = aligned ? 16 : 1;
  const auto pitch = [&](int64_t item) {
    return (cols * item + random.Pick(0, 40) + unit - 1) / unit * unit;
  };
  StridedCopy copy;
  copy.conversion = conversion;
  copy.modes = {{rows, pitch(from), pitch(to)}, {cols, from, to}};
  copy.src = random.TakeSrc(rows * copy.modes[0].src_stride_bytes, 16,
                            aligned ? 0 : random.Pick(0, 15));
  copy.dst = random.TakeDst(rows * copy.modes[0].dst_stride_bytes, 16,
                            aligned ? 0 : random.Pick(0, 15));
  if (copy.src == nullptr || copy.dst == nullptr) return;
  random.spec().copies.push_back({copy, place});
  StridedCopy expected = copy;
  expected.dst = random.Expected(copy.dst);
  ReferenceKernels().Copy(expected);
  random.ExpectDigest(
      place, rows, cols, static_cast<int>(from), [&](int64_t row, int64_t col) {
        return copy.src + row * copy.modes[0].src_stride_bytes + col * from;
      });
}

struct BlockSize {
  int64_t rows;
  int64_t cols;
};

void AddQuantisation(Case& random, bool aligned, bool transposed_scales) {
  BlockQuantisation work;
  work.rows = random.Pick(1, 300);
  work.cols = random.Pick(1, 400);
  if (random.Chance(30)) work.cols = random.Pick(1, 3) * 128;
  constexpr BlockSize kSizes[] = {{128, 128}, {128, 128},  {64, 128},
                                  {1, 128},   {1, 100000}, {100000, 100000},
                                  {17, 30}};
  const BlockSize size = random.OneOf(kSizes);
  work.block_rows = size.rows;
  work.block_cols = size.cols;
  work.src_dtype = random.Chance(60) ? DType::kBF16 : random.OneOf(kFloats);
  work.rule = random.Chance(50) ? tensor::ScaleRule::kFloat
                                : tensor::ScaleRule::kPowerOfTwo;
  const int64_t item = tensor::ItemBytes(work.src_dtype);
  const int64_t unit = aligned ? 16 : item;
  work.src_stride_bytes =
      (work.cols * item + random.Pick(0, 40) + unit - 1) / unit * unit;
  work.dst_stride_bytes =
      (work.cols + random.Pick(0, 20) + unit - 1) / unit * unit;
  const int64_t down = (work.rows + size.rows - 1) / size.rows;
  const int64_t across = (work.cols + size.cols - 1) / size.cols;
  Quantisation each;
  if (transposed_scales) {
    // Columns of scales, padded to 16 bytes.
    work.scales_stride_bytes = 4;
    each.scales_col_stride_bytes = (down + 3) / 4 * 16;
  } else {
    work.scales_stride_bytes = across * 4 + random.Pick(0, 2) * 4;
  }
  work.src = random.TakeSrc(work.rows * work.src_stride_bytes, 16,
                            aligned ? 0 : random.Pick(0, 7) * item);
  work.dst = random.TakeDst(work.rows * work.dst_stride_bytes, 16,
                            aligned ? 0 : random.Pick(0, 15));
  work.scales =
      random.TakeDst((down - 1) * work.scales_stride_bytes +
                         (across - 1) * each.scales_col_stride_bytes + 4,
                     4, 0);
  if (work.src == nullptr || work.dst == nullptr || work.scales == nullptr) {
    return;
  }
  random.FillFloats(work.src, work.rows * work.src_stride_bytes,
                    work.src_dtype);
  each.block = work;
  BlockQuantisation expected = work;
  expected.dst = random.Expected(work.dst);
  // The reference has its scales in rows.
  std::vector<float> scales(static_cast<size_t>(down * across));
  expected.scales = reinterpret_cast<std::byte*>(scales.data());
  expected.scales_stride_bytes = across * 4;
  ReferenceKernels().Quantise(expected);
  for (int64_t row = 0; row < down; ++row) {
    for (int64_t col = 0; col < across; ++col) {
      std::memcpy(random.Expected(work.scales) +
                      row * work.scales_stride_bytes +
                      col * each.scales_col_stride_bytes,
                  &scales[static_cast<size_t>(row * across + col)], 4);
    }
  }
  const int64_t col_unit = random.Chance(70) ? 8 : 1;
  if (random.Chance(60)) {
    each.source_digest = random.NewPlace(work.rows, work.cols, col_unit);
    random.ExpectDigest(*each.source_digest, work.rows, work.cols,
                        static_cast<int>(item), [&](int64_t row, int64_t col) {
                          return work.src + row * work.src_stride_bytes +
                                 col * item;
                        });
  }
  if (random.Chance(60)) {
    each.result_digest = random.NewPlace(work.rows, work.cols, col_unit);
    random.ExpectDigest(*each.result_digest, work.rows, work.cols, 1,
                        [&](int64_t row, int64_t col) {
                          return expected.dst + row * work.dst_stride_bytes +
                                 col;
                        });
  }
  random.spec().quantisations.push_back(each);
}

void AddDigest(Case& random) {
  constexpr int kItems[] = {1, 2, 2, 4, 8};
  Digest digest;
  digest.item_bytes = random.OneOf(kItems);
  digest.rows = random.Pick(1, 200);
  digest.cols = random.Pick(1, 300);
  if (random.Chance(20)) digest.rows = 1;
  const bool transposed = random.Chance(30);
  const int64_t item = digest.item_bytes;
  digest.col_stride_bytes = transposed ? digest.rows * item : item;
  digest.row_stride_bytes =
      transposed ? item
                 : (random.Chance(60) ? (digest.cols * item + 15) / 16 * 16
                                      : digest.cols * item + random.Pick(0, 9));
  if (random.Chance(10)) digest.col_stride_bytes *= 2;
  const int64_t bytes = (digest.rows - 1) * digest.row_stride_bytes +
                        (digest.cols - 1) * digest.col_stride_bytes + item +
                        digest.cols * item;
  digest.data =
      random.TakeSrc(bytes, 16, random.Chance(60) ? 0 : random.Pick(0, 15));
  if (digest.data == nullptr) return;
  digest.place =
      random.NewPlace(digest.rows, digest.cols, random.Chance(50) ? 64 : 1);
  random.spec().digests.push_back(digest);
  random.ExpectDigest(digest.place, digest.rows, digest.cols, digest.item_bytes,
                      [&](int64_t row, int64_t col) {
                        return digest.data + row * digest.row_stride_bytes +
                               col * digest.col_stride_bytes;
                      });
}

// Runs of bytes in an order of their own, as what is sharded unevenly leaves
// them: short and long, most of them aligned.
void AddPiece(Case& random) {
  const int64_t unit = random.Chance(80) ? 16 : 1;
  const int64_t most = random.Chance(80) ? 2000 : 16384;
  StridedCopy copy;
  copy.conversion = {DType::kU8, DType::kU8};
  const int64_t bytes = random.Pick(1, most / unit) * unit;
  copy.src = random.TakeSrc(bytes, unit, 0);
  copy.dst = random.TakeDst(bytes, unit, 0);
  if (copy.src == nullptr || copy.dst == nullptr) return;
  copy.modes = {{bytes, 1, 1}};
  random.spec().copies.push_back({copy, {}});
  std::memcpy(random.Expected(copy.dst), copy.src, static_cast<size_t>(bytes));
}

// Of 2-byte elements, 8 of them side by side on both sides; low and tall.
void AddWideTransposition(Case& random) {
  const int64_t rows = random.Pick(1, random.Chance(50) ? 12 : 90) * 8;
  const int64_t cols = random.Pick(1, 40) * 8;
  const int64_t src_pitch = (rows + random.Pick(0, 2) * 8) * 2;
  const int64_t dst_pitch = (cols + random.Pick(0, 2) * 8) * 2;
  StridedCopy copy;
  copy.conversion = {DType::kBF16, DType::kBF16};
  copy.src = random.TakeSrc(cols * src_pitch, 16, 0);
  copy.dst = random.TakeDst(rows * dst_pitch, 16, 0);
  if (copy.src == nullptr || copy.dst == nullptr) return;
  copy.modes = {{cols, src_pitch, 2}, {rows, 2, dst_pitch}};
  random.spec().copies.push_back({copy, {}});
  StridedCopy expected = copy;
  expected.dst = random.Expected(copy.dst);
  ReferenceKernels().Copy(expected);
}

template <typename Add>
void CheckMany(Runner& runner, int num_programs, const char* name,
               const Add& add) {
  for (int i = 0; i < num_programs; ++i) {
    const uint64_t seed =
        uint64_t{std::random_device()()} << 20 | static_cast<uint64_t>(i);
    SCOPED_TRACE(std::string(name) + ", seed " + std::to_string(seed));
    Case random(seed);
    add(random);
    constexpr CopyWay kWays[] = {CopyWay::kByCost, CopyWay::kEngines,
                                 CopyWay::kKernel};
    constexpr int kSms[] = {0, 1, 16};
    random.RunAndCompare(runner, {random.OneOf(kWays)}, random.OneOf(kSms));
    if (::testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace

void CheckRandomPrograms(Runner& runner, int num_programs) {
  CheckMany(runner, num_programs, "random programs", [](Case& random) {
    for (int64_t n = random.Pick(0, 30); n > 0; --n) AddCopy(random);
    for (int64_t n = random.Pick(0, 3); n > 0; --n) {
      AddDigestedCopy(random, random.Chance(50));
    }
    for (int64_t n = random.Pick(0, 4); n > 0; --n) {
      AddQuantisation(random, random.Chance(60), random.Chance(30));
    }
    for (int64_t n = random.Pick(0, 4); n > 0; --n) AddDigest(random);
  });
}

void CheckPieces(Runner& runner) {
  CheckMany(runner, 12, "pieces", [](Case& random) {
    for (int64_t n = random.Pick(1, 600); n > 0; --n) AddPiece(random);
  });
}

void CheckWideTranspositions(Runner& runner) {
  CheckMany(runner, 12, "wide transpositions", [](Case& random) {
    for (int64_t n = random.Pick(1, 8); n > 0; --n) {
      AddWideTransposition(random);
    }
  });
}

void CheckDigestedCopies(Runner& runner) {
  CheckMany(runner, 12, "digested copies", [](Case& random) {
    for (int i = 0; i < 12; ++i) AddDigestedCopy(random, i % 3 != 0);
  });
}

void CheckDigestedQuantisation(Runner& runner) {
  CheckMany(runner, 12, "digested quantisation", [](Case& random) {
    for (int i = 0; i < 10; ++i) {
      AddQuantisation(random, i % 3 != 0, false);
    }
  });
}

void CheckStridedDigests(Runner& runner) {
  CheckMany(runner, 12, "strided digests", [](Case& random) {
    for (int i = 0; i < 12; ++i) AddDigest(random);
  });
}

void CheckTransposedScales(Runner& runner) {
  CheckMany(runner, 6, "transposed scales", [](Case& random) {
    for (int i = 0; i < 8; ++i) AddQuantisation(random, i % 2 == 0, true);
  });
}

}  // namespace weft::convert::cuda::testing
