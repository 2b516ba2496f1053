// The plain path and the stand-in step, element by element with
// IndexMap::OffsetOf and 64-bit arithmetic.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "fragment_rows.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "plain_cut.h"
#include "rapidcheck.h"
#include "stand_in_step.h"
#include "weft/checkpoint/safetensors.h"

namespace weft::apps {
namespace {

using tensor::DType;

// A box of a logical tensor that lies in a stored tensor under digits whose
// order and gaps are random; no two elements share a place.
struct RandomFragment {
  tensor::Shape logical_shape;
  layout::IndexMap map;
};

std::vector<int64_t> RandomDigits() {
  return *rc::gen::container<std::vector<int64_t>>(
      *rc::gen::inRange<std::size_t>(1, 3), rc::gen::inRange<int64_t>(1, 5));
}

RandomFragment MakeRandomFragment(int max_rank) {
  RandomFragment fragment;
  const int rank = *rc::gen::inRange(0, max_rank + 1);
  absl::InlinedVector<tensor::Range, 4> ranges;
  std::vector<layout::DimModes> modes(static_cast<std::size_t>(rank));
  std::vector<layout::Mode*> all;
  for (int dim = 0; dim < rank; ++dim) {
    int64_t extent = 1;
    for (const int64_t digit : RandomDigits()) {
      modes[dim].push_back({digit, 0});
      extent *= digit;
    }
    for (layout::Mode& mode : modes[dim]) all.push_back(&mode);
    const int64_t begin = *rc::gen::inRange<int64_t>(0, 4);
    ranges.push_back({begin, begin + extent});
    fragment.logical_shape.push_back(begin + extent +
                                     *rc::gen::inRange<int64_t>(0, 3));
  }
  int64_t stride = *rc::gen::inRange<int64_t>(1, 3);
  while (!all.empty()) {
    const auto at = *rc::gen::inRange<std::size_t>(0, all.size());
    all[at]->stride = stride;
    stride *= all[at]->extent;
    stride += *rc::gen::inRange<int64_t>(0, 2);
    all.erase(all.begin() + static_cast<std::ptrdiff_t>(at));
  }
  fragment.map = *layout::IndexMap::Make(*tensor::Box::Make(ranges), modes,
                                         *rc::gen::inRange<int64_t>(0, 9));
  return fragment;
}

// (row-major logical index, stored offset) of every element of the box.
std::vector<std::pair<int64_t, int64_t>> Elements(
    const RandomFragment& fragment) {
  std::vector<std::pair<int64_t, int64_t>> elements;
  const tensor::Box& box = fragment.map.box();
  for (int64_t n = 0; n < box.num_elements(); ++n) {
    tensor::Shape x(static_cast<std::size_t>(box.rank()), 0);
    int64_t rest = n;
    for (int dim = box.rank() - 1; dim >= 0; --dim) {
      x[dim] = box.range(dim).begin + rest % box.extent(dim);
      rest /= box.extent(dim);
    }
    int64_t linear = 0;
    for (int dim = 0; dim < box.rank(); ++dim) {
      linear = linear * fragment.logical_shape[dim] + x[dim];
    }
    elements.emplace_back(linear, fragment.map.OffsetOf(x));
  }
  return elements;
}

int64_t NumElements(const tensor::Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

// The definition, in 64-bit arithmetic.
uint64_t Mask(int64_t i, int64_t step) {
  if (step == 0) return 0;
  const uint64_t product = static_cast<uint64_t>(i) * 2654435761u;
  const uint64_t h = (product % (uint64_t{1} << 32)) / 65536;
  return (h + static_cast<uint64_t>(step)) % 7 + 1;
}

TEST(ForEachRow, VisitsEachElementOnce) {
  ASSERT_TRUE(rc::check("rows are the elements of the box", [] {
    const RandomFragment fragment = MakeRandomFragment(3);
    std::vector<std::pair<int64_t, int64_t>> visited;
    ForEachRow(
        fragment.map, fragment.logical_shape, [&](const FragmentRow& row) {
          for (int64_t k = 0; k < row.num_elements; ++k) {
            visited.emplace_back(row.logical_begin + k,
                                 row.stored_begin + k * row.stored_stride);
          }
        });
    RC_ASSERT(visited == Elements(fragment));
  }));
}

TEST(ForEachRow, VisitsNothingOfAnEmptyBox) {
  for (const tensor::Shape& shape :
       {tensor::Shape{0, 3}, tensor::Shape{3, 0}, tensor::Shape{0}}) {
    const tensor::Shape origin(shape.size(), 0);
    const layout::IndexMap map = *layout::IndexMap::RowMajor(
        *tensor::Box::OfShape(shape), shape, origin);
    ForEachRow(map, shape, [](const FragmentRow&) { FAIL(); });
  }
}

TEST(StepMask, IsItsDefinition) {
  for (const int64_t i :
       {int64_t{0}, int64_t{1}, int64_t{65536}, (int64_t{1} << 32) - 1,
        int64_t{1} << 32, (int64_t{1} << 40) + 12345}) {
    for (const int64_t step :
         {int64_t{0}, int64_t{1}, int64_t{6}, int64_t{7}, INT64_MAX}) {
      EXPECT_EQ(StepMask(i, step), Mask(i, step)) << i << " " << step;
    }
  }
}

TEST(ApplyStep, IsTheDefinitionOnEveryElement) {
  ASSERT_TRUE(rc::check("bits change by m(from) XOR m(to)", [] {
    const RandomFragment fragment = MakeRandomFragment(3);
    const bool widened = *rc::gen::arbitrary<bool>();
    const DType logical = widened ? DType::kBF16
                                  : *rc::gen::element(DType::kBF16, DType::kF16,
                                                      DType::kF32, DType::kI16);
    layout::StoredTensor stored;
    stored.name = "s";
    stored.dtype = widened ? DType::kF32 : logical;
    stored.shape = {fragment.map.end_offset_elements()};
    stored.fragments.push_back({0, fragment.map});
    const std::size_t item =
        static_cast<std::size_t>(tensor::ItemBytes(stored.dtype));
    const auto bytes = *rc::gen::container<std::vector<uint8_t>>(
        item * static_cast<std::size_t>(stored.shape[0]),
        rc::gen::arbitrary<uint8_t>());
    const int64_t from = *rc::gen::inRange<int64_t>(0, 20);
    const int64_t to = *rc::gen::inRange<int64_t>(0, 20);

    std::vector<uint8_t> expected = bytes;
    for (const auto& [i, offset] : Elements(fragment)) {
      if (logical == DType::kI16) break;
      uint64_t change = Mask(i, from) ^ Mask(i, to);
      if (widened) change <<= 16;
      for (std::size_t b = 0; b < item; ++b) {
        expected[static_cast<std::size_t>(offset) * item + b] ^=
            static_cast<uint8_t>(change >> (8 * b));
      }
    }
    std::vector<uint8_t> found = bytes;
    const absl::Status status =
        ApplyStep(stored, {{"t", logical, fragment.logical_shape}}, from, to,
                  {reinterpret_cast<std::byte*>(found.data()), found.size()});
    RC_ASSERT(status.ok());
    RC_ASSERT(found == expected);
  }));
}

TEST(ApplyStep, RefusesWhatItCannotDo) {
  layout::StoredTensor stored;
  stored.name = "s";
  stored.dtype = DType::kBF16;
  stored.shape = {4};
  const tensor::Shape shape = {4};
  const tensor::Shape origin = {0};
  stored.fragments.push_back(
      {0, *layout::IndexMap::RowMajor(*tensor::Box::OfShape(shape), shape,
                                      origin)});
  std::vector<std::byte> data(8);
  const auto step = [&](DType logical, int64_t from, std::size_t bytes) {
    return ApplyStep(stored, {{"t", logical, {4}}}, from, 1,
                     absl::MakeSpan(data).subspan(0, bytes))
        .code();
  };
  EXPECT_EQ(step(DType::kBF16, 0, 8), absl::StatusCode::kOk);
  EXPECT_EQ(step(DType::kBF16, 0, 7), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(step(DType::kBF16, -1, 8), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(step(DType::kF32, 0, 8), absl::StatusCode::kUnimplemented);
}

// A checkpoint of one F32 tensor "t" of `shape` whose element i is i + 1.
class PlainCutTest : public ::testing::Test {
 protected:
  PlainCutTest() {
    std::string pattern = ::testing::TempDir() + "weft_plain_cut_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~PlainCutTest() override { std::filesystem::remove_all(folder_); }

  checkpoint::Checkpoint Numbered(const tensor::Shape& shape) const {
    std::vector<uint32_t> values;
    for (int64_t i = 0; i < NumElements(shape); ++i) {
      values.push_back(static_cast<uint32_t>(i) + 1);
    }
    const std::string path = (folder_ / "f.safetensors").string();
    const checkpoint::TensorToWrite tensor{
        {"t", DType::kF32, shape},
        {reinterpret_cast<const std::byte*>(values.data()), values.size() * 4}};
    EXPECT_TRUE(
        checkpoint::WriteSafetensors(path, {tensor}, {}, /*overwrite=*/true)
            .ok());
    return *checkpoint::Checkpoint::Open(path);
  }

  std::filesystem::path folder_;
};

TEST_F(PlainCutTest, PutsEveryElementInItsPlace) {
  ASSERT_TRUE(rc::check("cut[map(x)] is element x, the rest is zero", [&] {
    const RandomFragment fragment = MakeRandomFragment(3);
    const checkpoint::Checkpoint checkpoint = Numbered(fragment.logical_shape);
    layout::StoredTensor stored;
    stored.name = "s";
    stored.dtype = DType::kF32;
    stored.shape = {fragment.map.end_offset_elements() + 2};
    stored.fragments.push_back({0, fragment.map});
    const std::vector<tensor::TensorSpec> tensors = {
        {"t", DType::kF32, fragment.logical_shape}};
    const int64_t step = *rc::gen::inRange<int64_t>(0, 9);
    std::vector<uint32_t> expected(static_cast<std::size_t>(stored.shape[0]));
    for (const auto& [i, offset] : Elements(fragment)) {
      expected[static_cast<std::size_t>(offset)] =
          static_cast<uint32_t>(i + 1) ^ static_cast<uint32_t>(Mask(i, step));
    }
    const auto cut = CutStored(stored, tensors, {}, checkpoint, step);
    RC_ASSERT(cut.ok());
    RC_ASSERT(cut->size() == expected.size() * 4);
    RC_ASSERT(std::memcmp(cut->data(), expected.data(), cut->size()) == 0);
    RC_ASSERT(OriginOf(stored, tensors, stored.shape[0] - 1) == "padding");
  }));
}

TEST_F(PlainCutTest, RefusesWhatARecipeMayGetWrong) {
  const checkpoint::Checkpoint checkpoint = Numbered({4, 4});
  const tensor::Shape shape = {4, 4};
  const tensor::Shape origin = {0, 0};
  layout::StoredTensor stored;
  stored.name = "s";
  stored.dtype = DType::kF32;
  stored.shape = {4, 4};
  stored.fragments.push_back(
      {0, *layout::IndexMap::RowMajor(*tensor::Box::OfShape(shape), shape,
                                      origin)});
  const auto code = [&](const std::vector<tensor::TensorSpec>& tensors) {
    return CutStored(stored, tensors, {}, checkpoint, 0).status().code();
  };
  const tensor::TensorSpec good{"t", DType::kF32, {4, 4}};
  EXPECT_EQ(code({good}), absl::StatusCode::kOk);
  EXPECT_EQ(OriginOf(stored, {good}, 6), "t[1,2]");
  EXPECT_EQ(code({}), absl::StatusCode::kInternal);
  EXPECT_EQ(code({{"t", DType::kF32, {4, 3}}}), absl::StatusCode::kInternal);
  EXPECT_EQ(code({{"t", DType::kF32, {16}}}), absl::StatusCode::kInternal);
  EXPECT_EQ(code({{"u", DType::kF32, {4, 4}}}), absl::StatusCode::kNotFound);
  EXPECT_EQ(code({{"t", DType::kF16, {4, 4}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({{"t", DType::kF32, {5, 4}}}),
            absl::StatusCode::kInvalidArgument);
  stored.dtype = DType::kI8;
  EXPECT_EQ(code({good}), absl::StatusCode::kUnimplemented);
  stored.dtype = DType::kF32;
  stored.shape = {4, 3};
  EXPECT_EQ(code({good}), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace weft::apps
