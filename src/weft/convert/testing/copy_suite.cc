#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "weft/convert/kernel.h"
#include "weft/convert/testing/kernel_suite.h"

namespace weft::convert::testing {
namespace {

using tensor::Conversion;
using tensor::DType;

std::vector<Conversion> AllConversions() {
  std::vector<Conversion> all;
  for (const DType dtype :
       {DType::kF8E4M3, DType::kI16, DType::kF32, DType::kI64}) {
    all.push_back({dtype, dtype});
  }
  for (const DType from : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const DType to : {DType::kBF16, DType::kF16, DType::kF32}) {
      all.push_back({from, to});
    }
  }
  using tensor::Transform;
  all.push_back({DType::kF32, DType::kF32, Transform::kNegExp});
  all.push_back({DType::kBF16, DType::kF32, Transform::kNegExp});
  all.push_back({DType::kF32, DType::kBF16, Transform::kMinusOne});
  all.push_back({DType::kBF16, DType::kBF16, Transform::kPlusOne});
  return all;
}

std::string Describe(const StridedCopy& copy) {
  std::string text = tensor::ToString(copy.conversion);
  for (const CopyMode& mode : copy.modes) {
    absl::StrAppend(&text, " (", mode.extent, ":", mode.src_stride_bytes, ">",
                    mode.dst_stride_bytes, ")");
  }
  return text;
}

// Every element by itself: where it lies is computed here; what an element
// becomes is the reference's word, which the cast suite checks.
void CopyByElement(const StridedCopy& copy) {
  std::vector<int64_t> digits(copy.modes.size(), 0);
  for (const CopyMode& mode : copy.modes) {
    if (mode.extent == 0) return;
  }
  while (true) {
    StridedCopy one;
    one.src = copy.src;
    one.dst = copy.dst;
    one.conversion = copy.conversion;
    for (size_t k = 0; k < digits.size(); ++k) {
      one.src += digits[k] * copy.modes[k].src_stride_bytes;
      one.dst += digits[k] * copy.modes[k].dst_stride_bytes;
    }
    if (copy.conversion.identity()) {
      std::memcpy(one.dst, one.src,
                  static_cast<size_t>(tensor::ItemBytes(copy.conversion.to)));
    } else {
      ReferenceKernels().Copy(one);
    }
    size_t k = digits.size();
    while (k > 0 && ++digits[k - 1] == copy.modes[k - 1].extent) {
      digits[--k] = 0;
    }
    if (k == 0) return;
  }
}

int64_t SpanBytes(const StridedCopy& copy, bool src) {
  int64_t span =
      tensor::ItemBytes(src ? copy.conversion.from : copy.conversion.to);
  for (const CopyMode& mode : copy.modes) {
    if (mode.extent == 0) return 0;
    span += (mode.extent - 1) *
            (src ? mode.src_stride_bytes : mode.dst_stride_bytes);
  }
  return span;
}

// Runs `copy` between buffers of exactly its size, the given bytes off their
// alignment, and compares the whole destination, surroundings included.
void CheckCopy(const Kernels& kernels, StridedCopy copy, int64_t src_shift,
               int64_t dst_shift, std::mt19937_64& random) {
  constexpr int64_t kGuard = 128;
  const std::vector<std::byte> src =
      RandomBytes(random, SpanBytes(copy, true) + src_shift);
  const std::vector<std::byte> before =
      RandomBytes(random, SpanBytes(copy, false) + dst_shift + 2 * kGuard);
  std::vector<std::byte> expected = before;
  std::vector<std::byte> got = before;
  copy.src = src.data() + src_shift;
  copy.dst = expected.data() + kGuard + dst_shift;
  CopyByElement(copy);
  copy.dst = got.data() + kGuard + dst_shift;
  kernels.Copy(copy);
  const auto differs =
      std::mismatch(got.begin(), got.end(), expected.begin()).first;
  ASSERT_TRUE(differs == got.end())
      << kernels.name() << ": " << Describe(copy) << ", shifts " << src_shift
      << " and " << dst_shift << ": first wrong byte "
      << (differs - got.begin()) - kGuard - dst_shift;
}

// Strides that never overlap: modes are laid out in a random order, each
// beyond the one before, with a gap now and then.
void RandomStrides(std::mt19937_64& random, int64_t item, bool src,
                   StridedCopy& copy) {
  std::vector<size_t> order(copy.modes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (random() % 2 == 0) {
    std::reverse(order.begin(), order.end());
  } else {
    std::shuffle(order.begin(), order.end(), random);
  }
  int64_t stride = item * (random() % 4 == 0 ? 2 : 1);
  for (const size_t k : order) {
    CopyMode& mode = copy.modes[k];
    const bool repeats = src && random() % 16 == 0;
    (src ? mode.src_stride_bytes : mode.dst_stride_bytes) =
        repeats ? 0 : stride;
    stride *= std::max<int64_t>(mode.extent, 1);
    if (random() % 4 == 0) {
      stride += item * static_cast<int64_t>(random() % 5);
    }
  }
}

}  // namespace

std::vector<std::byte> RandomBytes(std::mt19937_64& random, int64_t count) {
  std::vector<std::byte> bytes(static_cast<size_t>(count));
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t value = random();
    std::memcpy(bytes.data() + i, &value,
                std::min<size_t>(8, bytes.size() - i));
  }
  return bytes;
}

void CheckContiguousCopies(const Kernels& kernels) {
  std::mt19937_64 random(1);
  for (const Conversion& conversion : AllConversions()) {
    const int64_t src_item = tensor::ItemBytes(conversion.from);
    const int64_t dst_item = tensor::ItemBytes(conversion.to);
    for (int64_t count = 0; count <= 130; ++count) {
      for (int64_t shift = 0; shift < 16; ++shift) {
        const int64_t src_step = shift % 3 == 1 ? 2 : 1;
        const int64_t dst_step = shift % 5 == 1 ? 3 : 1;
        StridedCopy copy;
        copy.conversion = conversion;
        copy.modes = {{count, src_item * src_step, dst_item * dst_step}};
        ASSERT_NO_FATAL_FAILURE(
            CheckCopy(kernels, copy, shift % 4 * src_item + shift / 8,
                      shift / 4 * dst_item + shift % 2, random));
      }
    }
    StridedCopy scalar;
    scalar.conversion = conversion;
    ASSERT_NO_FATAL_FAILURE(CheckCopy(kernels, scalar, 0, 0, random));
  }
}

void CheckRandomCopies(const Kernels& kernels) {
  const std::vector<Conversion> conversions = AllConversions();
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    StridedCopy copy;
    copy.conversion = conversions[random() % conversions.size()];
    const uint64_t num_modes = random() % 6;
    int64_t budget = 20000;
    for (uint64_t k = 0; k < num_modes; ++k) {
      int64_t extent = static_cast<int64_t>(random() % 9);
      if (random() % 3 == 0) extent = static_cast<int64_t>(random() % 200);
      if (extent == 0 && random() % 8 != 0) extent = 1;
      extent = std::min(extent, budget);
      budget /= std::max<int64_t>(extent, 1);
      copy.modes.push_back({extent, 0, 0});
    }
    RandomStrides(random, tensor::ItemBytes(copy.conversion.from), true, copy);
    RandomStrides(random, tensor::ItemBytes(copy.conversion.to), false, copy);
    ASSERT_NO_FATAL_FAILURE(
        CheckCopy(kernels, copy, static_cast<int64_t>(random() % 8),
                  static_cast<int64_t>(random() % 8), random));
  }
}

void CheckLargeCopies(const Kernels& kernels) {
  std::mt19937_64 random(2);
  const Conversion bf16{DType::kBF16, DType::kBF16};
  const Conversion f32{DType::kF32, DType::kF32};
  const Conversion u8{DType::kU8, DType::kU8};
  const Conversion i64{DType::kI64, DType::kI64};
  const std::vector<StridedCopy> copies = {
      // Contiguous; long rows; rows of 256 bytes out of 512 and into 320.
      {.modes = {{1000003, 1, 1}}, .conversion = u8},
      {.modes = {{150, 5002, 4800}, {2400, 2, 2}}, .conversion = bf16},
      {.modes = {{150, 4802, 5000}, {2400, 2, 2}}, .conversion = bf16},
      {.modes = {{3000, 512, 256}, {128, 2, 2}}, .conversion = bf16},
      {.modes = {{3000, 256, 320}, {128, 2, 2}}, .conversion = bf16},
      {.modes = {{3, 1 << 20, 1 << 19}, {1500, 512, 256}, {128, 2, 2}},
       .conversion = bf16},
      // Transpositions with ragged ends.
      {.modes = {{517, 2, 1038}, {519, 1034, 2}}, .conversion = bf16},
      {.modes = {{517, 4, 1204}, {301, 2068, 4}}, .conversion = f32},
      {.modes = {{517, 1, 301}, {301, 517, 1}}, .conversion = u8},
      {.modes = {{251, 8, 1120}, {140, 2008, 8}}, .conversion = i64},
      // The same with casts, and with a batch between.
      {.modes = {{517, 4, 1038}, {519, 2068, 2}},
       .conversion = {DType::kF32, DType::kBF16}},
      {.modes = {{130, 4, 2000}, {5, 520, 400}, {100, 2600, 4}},
       .conversion = {DType::kF32, DType::kF32}},
      {.modes = {{130, 2, 2000}, {5, 260, 400}, {100, 1300, 4}},
       .conversion = {DType::kF16, DType::kF32}},
      {.modes = {{200, 4, 20000}, {5000, 800, 4}},
       .conversion = {DType::kF32, DType::kF32}},
      {.modes = {{600000, 4, 2}}, .conversion = {DType::kF32, DType::kF16}}};
  for (const StridedCopy& copy : copies) {
    for (const int64_t shift : {0, 1, 6}) {
      ASSERT_NO_FATAL_FAILURE(CheckCopy(kernels, copy, shift, 0, random));
      ASSERT_NO_FATAL_FAILURE(CheckCopy(kernels, copy, 0, shift, random));
    }
  }
}

}  // namespace weft::convert::testing
