#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::testing {
namespace {

constexpr int kRows = static_cast<int>(tensor::kTileRows);
constexpr int kCols = static_cast<int>(tensor::kTileCols);

// The definition, element by element: R[s][r] * C[s][c*item/4] * v *
// 2^(8*(c*item mod 4)); a 64-bit element is two of 32 bits.
void AddByFormula(const DigestConstants& constants, const std::byte* element,
                  int item_bytes, int row, int64_t col, DigestValue& value) {
  if (item_bytes == 8) {
    AddByFormula(constants, element, 4, row, 2 * col, value);
    AddByFormula(constants, element + 4, 4, row, 2 * col + 1, value);
    return;
  }
  uint64_t v = 0;
  for (int i = item_bytes; i-- > 0;) {
    v = v * 256 + static_cast<uint64_t>(element[i]);
  }
  const int64_t place = col * item_bytes;
  for (int i = 0; i < place % 4; ++i) v *= 256;
  for (size_t s = 0; s < 2; ++s) {
    value.sum[s] += constants.row[s][static_cast<size_t>(row)] *
                    constants.col[s][static_cast<size_t>(place / 4)] * v;
  }
}

DigestValue RandomValue(std::mt19937_64& random) {
  DigestValue value;
  value.sum[0] = random();
  value.sum[1] = random();
  return value;
}

// One whole tile, its rows beside each other in memory.
DigestValue TileDigest(const Kernels& kernels, const DigestConstants& constants,
                       const std::vector<std::byte>& tile, int item_bytes) {
  DigestValue value;
  kernels.DigestBand(constants, tile.data(), int64_t{kCols} * item_bytes, kRows,
                     kCols, item_bytes, 0, 0, absl::MakeSpan(&value, 1));
  return value;
}

void SwapBytes(std::vector<std::byte>& bytes, int64_t a, int64_t b,
               int64_t count) {
  std::swap_ranges(bytes.begin() + a, bytes.begin() + a + count,
                   bytes.begin() + b);
}

}  // namespace

void CheckDigestRows(const Kernels& kernels) {
  std::mt19937_64 random(3);
  for (const int item : {1, 2, 4, 8}) {
    const std::vector<std::byte> data = RandomBytes(random, kCols * item + 8);
    for (int col = 0; col <= kCols; ++col) {
      for (int count = 0; col + count <= kCols; ++count) {
        const DigestConstants constants = DigestConstants::FromSeed(count % 3);
        const int row = static_cast<int>(random() % kRows);
        const std::byte* start = data.data() + random() % 8;
        DigestValue expected = RandomValue(random);
        DigestValue got = expected;
        for (int i = 0; i < count; ++i) {
          AddByFormula(constants, start + i * item, item, row, col + i,
                       expected);
        }
        kernels.DigestRow(constants, start, count, item, row, col, got);
        ASSERT_EQ(got, expected) << "item " << item << " columns [" << col
                                 << "," << col + count << ")";
      }
    }
  }
}

void CheckDigestBands(const Kernels& kernels) {
  for (uint64_t seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    const DigestConstants constants = DigestConstants::FromSeed(seed);
    const int item = 1 << random() % 4;
    const int row = static_cast<int>(random() % kRows);
    const int num_rows =
        static_cast<int>(random() % static_cast<uint64_t>(kRows - row + 1));
    const int col = random() % 2 == 0 ? 0 : static_cast<int>(random() % kCols);
    const auto num_cols = static_cast<int64_t>(random() % 700);
    const int64_t stride =
        num_cols * item + static_cast<int64_t>(random() % 40);
    const auto shift = static_cast<int64_t>(random() % 8);
    const std::vector<std::byte> data =
        RandomBytes(random, shift + stride * num_rows);
    // One value more than is touched, which must stay.
    std::vector<DigestValue> expected(
        static_cast<size_t>((col + num_cols + kCols - 1) / kCols + 1));
    for (DigestValue& value : expected) value = RandomValue(random);
    std::vector<DigestValue> got = expected;
    for (int r = 0; r < num_rows; ++r) {
      for (int64_t c = 0; c < num_cols; ++c) {
        AddByFormula(constants, data.data() + shift + r * stride + c * item,
                     item, row + r, (col + c) % kCols,
                     expected[static_cast<size_t>((col + c) / kCols)]);
      }
    }
    kernels.DigestBand(constants, data.data() + shift, stride, num_rows,
                       num_cols, item, row, col,
                       absl::MakeSpan(got.data(), got.size() - 1));
    ASSERT_EQ(got, expected) << "item " << item << " rows " << num_rows
                             << " columns " << col << "+" << num_cols;
  }
}

void CheckDigestAdds(const Kernels& kernels) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    const DigestConstants constants = DigestConstants::FromSeed(seed);
    const int item = 1 << random() % 4;
    const std::vector<std::byte> tile =
        RandomBytes(random, int64_t{kRows} * kCols * item);
    // Every element goes to one of four parties; each digests its own, element
    // by element or run by run, in any order.
    std::array<DigestValue, 4> parts{};
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kCols;) {
        const int run = std::min(
            kCols - c, 1 + static_cast<int>(random() % (random() % 20 + 1)));
        kernels.DigestRow(constants, tile.data() + (r * kCols + c) * item, run,
                          item, r, c, parts[random() % parts.size()]);
        c += run;
      }
    }
    DigestValue sum;
    for (const DigestValue& part : parts) sum += part;
    ASSERT_EQ(sum, TileDigest(kernels, constants, tile, item));
  }
}

void CheckDigestNotices(const Kernels& kernels, int thinning) {
  for (const int item : {1, 2, 4, 8}) {
    std::mt19937_64 random(static_cast<uint64_t>(item));
    const DigestConstants constants = DigestConstants::FromSeed(77);
    const int64_t row_bytes = int64_t{kCols} * item;
    const std::vector<std::byte> tile = RandomBytes(random, kRows * row_bytes);
    const DigestValue digest = TileDigest(kernels, constants, tile, item);
    const auto noticed = [&](const std::vector<std::byte>& other) {
      const DigestValue changed = TileDigest(kernels, constants, other, item);
      // Each of the two sums by itself.
      return changed.sum[0] != digest.sum[0] && changed.sum[1] != digest.sum[1];
    };
    for (int a = 0; a < kRows; ++a) {
      const int b = static_cast<int>((a + 1 + random() % (kRows - 1)) % kRows);
      std::vector<std::byte> rows = tile;
      SwapBytes(rows, a * row_bytes, b * row_bytes, row_bytes);
      EXPECT_TRUE(noticed(rows)) << "rows " << a << " and " << b << " swapped";
      std::vector<std::byte> repeated = tile;
      std::copy_n(tile.begin() + a * row_bytes, row_bytes,
                  repeated.begin() + b * row_bytes);
      EXPECT_TRUE(noticed(repeated)) << "row " << a << " also in row " << b;
      std::vector<std::byte> dropped = tile;
      std::fill_n(dropped.begin() + a * row_bytes, row_bytes, std::byte{0});
      EXPECT_TRUE(noticed(dropped)) << "row " << a << " dropped";
    }
    for (int i = 0; i < 2000 / thinning; ++i) {
      const auto a = static_cast<int64_t>(random() % (kRows * kCols)) * item;
      const auto b = static_cast<int64_t>(random() % (kRows * kCols)) * item;
      if (std::equal(tile.begin() + a, tile.begin() + a + item,
                     tile.begin() + b)) {
        continue;
      }
      std::vector<std::byte> swapped = tile;
      SwapBytes(swapped, a, b, item);
      EXPECT_TRUE(noticed(swapped)) << "elements at " << a << " and " << b;
    }
    EXPECT_TRUE(noticed(RandomBytes(random, kRows * row_bytes)))
        << "another tile in its place";
    EXPECT_TRUE(noticed(std::vector<std::byte>(tile.size())))
        << "the tile never written";
    // Every single bit, or some of each row: by additivity a row's digest
    // tells.
    for (int r = 0; r < kRows; ++r) {
      const auto row_digest = [&](const std::byte* data) {
        DigestValue value;
        kernels.DigestRow(constants, data, kCols, item, r, 0, value);
        return value;
      };
      std::vector<std::byte> row(tile.begin() + r * row_bytes,
                                 tile.begin() + (r + 1) * row_bytes);
      const DigestValue whole = row_digest(row.data());
      for (int64_t bit = r % thinning; bit < 8 * row_bytes; bit += thinning) {
        const auto mask = static_cast<std::byte>(1 << bit % 8);
        row[static_cast<size_t>(bit / 8)] ^= mask;
        const DigestValue flipped = row_digest(row.data());
        row[static_cast<size_t>(bit / 8)] ^= mask;
        ASSERT_TRUE(flipped.sum[0] != whole.sum[0] &&
                    flipped.sum[1] != whole.sum[1])
            << "row " << r << " bit " << bit;
      }
    }
  }
}

}  // namespace weft::convert::testing
