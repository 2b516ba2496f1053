#include "weft/layout/stored_tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <set>
#include <string>

#include "weft/layout/testing/oracle.h"
#include "weft/layout/tiling_internal.h"

namespace weft::layout {
namespace {

using internal::FindTilingFaults;
using internal::Image;
using internal::TilingFault;
using ::testing::AllOf;
using testing::AnyModes;
using testing::DigitOffset;
using ::testing::HasSubstr;
using ::testing::Not;
using Kind = TilingFault::Kind;

tensor::Box MakeBox(std::vector<tensor::Range> ranges) {
  return tensor::Box::Make(ranges).value();
}

IndexMap MakeMap(std::vector<tensor::Range> ranges, std::vector<DimModes> modes,
                 int64_t offset = 0) {
  return IndexMap::Make(MakeBox(std::move(ranges)), std::move(modes), offset)
      .value();
}

std::string Print(const std::vector<Image>& images) {
  std::string text;
  for (const Image& image : images) {
    text += std::to_string(image.offset) + " +";
    for (const Mode& mode : image.modes) {
      text +=
          " " + std::to_string(mode.extent) + ":" + std::to_string(mode.stride);
    }
    text += "; ";
  }
  return text;
}

// Elements of an image, one entry a write.
std::vector<int64_t> WritesOf(const Image& image) {
  std::vector<int64_t> elements = {image.offset};
  for (const Mode& mode : image.modes) {
    std::vector<int64_t> more;
    for (const int64_t element : elements) {
      for (int64_t i = 0; i < mode.extent; ++i) {
        more.push_back(element + i * mode.stride);
      }
    }
    elements = std::move(more);
  }
  return elements;
}

// How often each image writes each element.
struct WriteTable {
  std::map<int64_t, std::map<int, int>> writes;
  int64_t end = 0;

  explicit WriteTable(const std::vector<Image>& images) {
    for (std::size_t i = 0; i < images.size(); ++i) {
      for (const int64_t element : WritesOf(images[i])) {
        ++writes[element][static_cast<int>(i)];
        end = std::max(end, element + 1);
      }
    }
  }
  bool Written(int64_t element) const { return writes.count(element) != 0; }
};

void CheckAgainstTable(const std::vector<Image>& images, int64_t padding) {
  RC_LOG() << Print(images) << '\n';
  const WriteTable table(images);
  const int64_t num_elements = table.end + padding;
  std::set<int> repeats;
  std::set<std::pair<int, int>> overlaps;
  for (const auto& [element, writers] : table.writes) {
    for (auto a = writers.begin(); a != writers.end(); ++a) {
      if (a->second > 1) repeats.insert(a->first);
      for (auto b = std::next(a); b != writers.end(); ++b) {
        overlaps.insert({a->first, b->first});
      }
    }
  }
  const bool hole = static_cast<int64_t>(table.writes.size()) < num_elements;
  std::set<int> repeats_found;
  std::set<int> in_overlap_found;
  int64_t missing_found = 0;
  int64_t first_hole_found = num_elements;
  for (const TilingFault& fault :
       FindTilingFaults(images, num_elements, false)) {
    RC_ASSERT(fault.elements.begin >= 0);
    RC_ASSERT(fault.elements.extent() > 0);
    RC_ASSERT(fault.elements.end <= num_elements);
    const int64_t first = fault.elements.begin;
    switch (fault.kind) {
      case Kind::kRepeat:
        RC_ASSERT(repeats.count(fault.first) == 1u);
        repeats_found.insert(fault.first);
        break;
      case Kind::kOverlap:
        RC_ASSERT(overlaps.count({fault.first, fault.second}) == 1u);
        for (int64_t x = first; x < fault.elements.end; ++x) {
          RC_ASSERT(table.writes.at(x).size() >= 2u);
        }
        RC_ASSERT(table.writes.at(first).count(fault.first) == 1u);
        RC_ASSERT(table.writes.at(first).count(fault.second) == 1u);
        in_overlap_found.insert(fault.first);
        in_overlap_found.insert(fault.second);
        break;
      case Kind::kHole:
        for (int64_t x = first; x < fault.elements.end; ++x) {
          RC_ASSERT(!table.Written(x));
        }
        RC_ASSERT(first == 0 || table.Written(first - 1));
        first_hole_found = std::min(first_hole_found, first);
        missing_found += fault.num_missing;
        break;
      case Kind::kUnproven:
        RC_FAIL("a small case was not proven");
    }
  }
  RC_ASSERT(missing_found ==
            num_elements - static_cast<int64_t>(table.writes.size()));
  RC_ASSERT((first_hole_found < num_elements) == hole);
  if (hole) {
    int64_t first_hole = 0;
    while (table.Written(first_hole)) ++first_hole;
    RC_ASSERT(first_hole_found == first_hole);
  }
  RC_ASSERT(repeats_found == repeats);
  // Each overlap is told against some partner, not against all.
  RC_ASSERT(overlaps.empty() == in_overlap_found.empty());
  for (const TilingFault& fault :
       FindTilingFaults(images, num_elements, true)) {
    RC_ASSERT(fault.kind != Kind::kHole);
  }
}

TEST(TilingTest, EqualsATableOfWritesOnRandomImages) {
  ASSERT_TRUE(rc::check("arbitrary strides", [] {
    std::vector<Image> images(*rc::gen::inRange<std::size_t>(0, 6));
    for (Image& image : images) {
      image.offset = *rc::gen::inRange<int64_t>(0, 30);
      for (const Mode& mode : AnyModes(12)) image.modes.push_back(mode);
      for (const Mode& mode : AnyModes(8)) image.modes.push_back(mode);
    }
    CheckAgainstTable(images, *rc::gen::inRange<int64_t>(0, 3));
  }));
}

// Boxes of one small shape, so that many meet and some are exact.
TEST(TilingTest, EqualsATableOfWritesOnBoxes) {
  ASSERT_TRUE(rc::check("boxes of [4,3,6]", [] {
    const std::vector<int64_t> shape = {4, 3, 6};
    std::vector<Image> images(*rc::gen::inRange<std::size_t>(1, 7));
    for (Image& image : images) {
      int64_t stride = 1;
      for (int dim = 2; dim >= 0; --dim) {
        const auto begin = *rc::gen::inRange<int64_t>(0, shape[dim]);
        const auto extent =
            *rc::gen::inRange<int64_t>(1, shape[dim] - begin + 1);
        image.offset += begin * stride;
        image.modes.push_back({extent, stride});
        stride *= shape[dim];
      }
    }
    CheckAgainstTable(images, 0);
  }));
}

// A random partition of [0,n) into strided sets has no fault; with one piece
// left out or one given twice it has.
TEST(TilingTest, PartitionsPassAndBrokenPartitionsDoNot) {
  ASSERT_TRUE(rc::check("recursive splits", [] {
    std::vector<Image> images = {{0, {}}};
    int64_t stride = 1;
    for (int k = 0; k < 3; ++k) {
      images[0].modes.push_back({*rc::gen::inRange<int64_t>(1, 7), stride});
      stride *= images[0].modes.back().extent;
    }
    const int splits = *rc::gen::inRange(0, 6);
    for (int k = 0; k < splits; ++k) {
      Image& image = images[*rc::gen::inRange<std::size_t>(0, images.size())];
      Mode& mode = image.modes[*rc::gen::inRange<std::size_t>(0, 3)];
      if (mode.extent < 2) continue;
      Image rest = image;
      Mode& rest_mode = rest.modes[&mode - image.modes.data()];
      if (mode.extent % 2 == 0 && *rc::gen::arbitrary<bool>()) {  // interleave
        rest.offset += mode.stride;
        mode = rest_mode = {mode.extent / 2, mode.stride * 2};
      } else {
        const auto cut = *rc::gen::inRange<int64_t>(1, mode.extent);
        rest.offset += cut * mode.stride;
        rest_mode.extent -= cut;
        mode.extent = cut;
      }
      images.push_back(rest);
    }
    RC_LOG() << Print(images) << '\n';
    RC_ASSERT(FindTilingFaults(images, stride, false).empty());
    const auto one = *rc::gen::inRange<std::size_t>(0, images.size());
    std::vector<Image> twice = images;
    twice.push_back(images[one]);
    RC_ASSERT(!FindTilingFaults(twice, stride, true).empty());
    images.erase(images.begin() + static_cast<std::ptrdiff_t>(one));
    RC_ASSERT(FindTilingFaults(images, stride, true).empty());
    RC_ASSERT(!FindTilingFaults(images, stride, false).empty());
  }));
}

// 11 G elements, as the experts of a very large model on one rank: too many
// for any walk.
TEST(TilingTest, LargeStridedTensorsAreProvenWithoutWalking) {
  const int64_t experts = 384, rows = 4096, cols = 7168;
  std::vector<Image> images;
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t odd = 0; odd < 2; ++odd) {  // gate and up rows interleave
      images.push_back(
          {(e * rows + odd) * cols, {{rows / 2, 2 * cols}, {cols, 1}}});
    }
  }
  const int64_t n = experts * rows * cols;
  EXPECT_TRUE(FindTilingFaults(images, n, false).empty());
  images[5].modes[0].extent -= 1;
  const auto faults = FindTilingFaults(images, n, false);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].kind, Kind::kHole);
  EXPECT_EQ(faults[0].elements,
            (tensor::Range{(3 * rows - 1) * cols, 3 * rows * cols}));
  EXPECT_EQ(faults[0].num_missing, cols);
}

TEST(TilingTest, SaysWhatItCannotProve) {
  const int64_t large = int64_t{1} << 33;
  const auto unproven =
      FindTilingFaults({{0, {{large, 2}}}, {1, {{large, 3}}}}, 4 * large, true);
  ASSERT_EQ(unproven.size(), 1u);
  EXPECT_EQ(unproven[0].kind, Kind::kUnproven);
}

// Strides 2 and 3 go to the bitmap; an image with far more writes than there
// are elements is told without walking it.
TEST(TilingTest, HostileRepeatsAreNotWalked) {
  const int64_t n = int64_t{1} << 22;
  const std::vector<Image> images = {
      {0, {{n / 8, 2}, {n / 8, 3}, {n / 8, 1}}}, {n - 2, {}}, {n - 1, {}}};
  const auto faults = FindTilingFaults(images, n, false);
  ASSERT_EQ(faults.size(), 2u);
  EXPECT_EQ(faults[0].kind, Kind::kRepeat);
  EXPECT_EQ(faults[0].first, 0);
  EXPECT_EQ(faults[1].kind, Kind::kHole);
}

// Too many boxes to compare in pairs.
TEST(TilingTest, ManyBoxesFallBackToTheBitmap) {
  std::vector<Image> images;
  const int64_t n = 2 * 66000;
  for (int64_t i = 0; i < n / 2; ++i) images.push_back({i, {{2, n / 2}}});
  EXPECT_TRUE(FindTilingFaults(images, n, false).empty());
  images.emplace_back().offset = 7;
  const auto faults = FindTilingFaults(images, n, false);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].kind, Kind::kOverlap);
  EXPECT_EQ(faults[0].elements, (tensor::Range{7, 8}));
}

const std::vector<tensor::TensorSpec>& Qkv() {
  static const auto* const kTensors = new std::vector<tensor::TensorSpec>{
      {"q_proj.weight", tensor::DType::kBF16, {8, 4}},
      {"k_proj.weight", tensor::DType::kBF16, {4, 4}},
      {"v_proj.weight", tensor::DType::kBF16, {4, 4}}};
  return *kTensors;
}

// formats.md 6, W1: q[0..3] k[0..1] v[0..1] q[4..7] k[2..3] v[2..3].
StoredTensor LinearQkv() {
  StoredTensor stored;
  stored.name = "linear_qkv.weight";
  stored.shape = {16, 4};
  stored.fragments = {
      {0, MakeMap({{0, 8}, {0, 4}}, {{{4, 4}, {2, 32}}, {{4, 1}}})},
      {1, MakeMap({{0, 4}, {0, 4}}, {{{2, 4}, {2, 32}}, {{4, 1}}}, 16)},
      {2, MakeMap({{0, 4}, {0, 4}}, {{{2, 4}, {2, 32}}, {{4, 1}}}, 24)}};
  return stored;
}

std::string Faults(const StoredTensor& stored, bool allow_holes = false) {
  const absl::Status status = CheckTiling(stored, Qkv(), allow_holes);
  if (status.ok()) return "";
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(CheckTilingTest, QueryGroupsTile) {
  EXPECT_EQ(Faults(LinearQkv()), "");
  EXPECT_EQ(NumElements(LinearQkv()).value(), 64);
}

TEST(CheckTilingTest, HoleNamesTheElements) {
  StoredTensor stored = LinearQkv();
  stored.fragments.pop_back();
  EXPECT_THAT(Faults(stored),
              AllOf(HasSubstr("elements [24,32) of stored tensor "
                              "\"linear_qkv.weight\" are written by no"),
                    HasSubstr("of 64")));
  EXPECT_EQ(Faults(stored, /*allow_holes=*/true), "");
}

TEST(CheckTilingTest, ZeroFillFillsHoles) {
  StoredTensor stored = LinearQkv();
  stored.fragments.pop_back();
  stored.zero_fill = {MakeBox({{6, 8}, {0, 4}}), MakeBox({{14, 16}, {0, 4}})};
  EXPECT_EQ(Faults(stored), "");
  stored.zero_fill.push_back(MakeBox({{15, 16}, {1, 3}}));
  EXPECT_THAT(Faults(stored), AllOf(HasSubstr("elements [61,63)"),
                                    HasSubstr("zero fill [14,16)x[0,4)"),
                                    HasSubstr("zero fill [15,16)x[1,3)")));
  EXPECT_NE(Faults(stored, /*allow_holes=*/true), "");
}

TEST(CheckTilingTest, OverlapNamesBoth) {
  StoredTensor stored = LinearQkv();
  stored.fragments[2] = {
      2, MakeMap({{0, 4}, {0, 4}}, {{{2, 4}, {2, 32}}, {{4, 1}}}, 20)};
  const std::string faults = Faults(stored);
  EXPECT_THAT(faults,
              AllOf(HasSubstr("elements [20,24) of stored tensor "
                              "\"linear_qkv.weight\" are written by both box "
                              "[0,4)x[0,4) of \"k_proj.weight\" and box "
                              "[0,4)x[0,4) of \"v_proj.weight\""),
                    HasSubstr("elements [28,32)")));  // and the hole
}

TEST(CheckTilingTest, OneFragmentMayOverlapItself) {
  StoredTensor stored;
  stored.name = "x";
  stored.shape = {17};
  stored.fragments = {{0, MakeMap({{0, 8}, {0, 4}}, {{{8, 1}}, {{4, 3}}})}};
  EXPECT_THAT(Faults(stored, true), HasSubstr("more than once by box [0,8)"));
  stored.fragments = {{0, MakeMap({{0, 8}, {0, 4}}, {{{8, 0}}, {{4, 1}}})}};
  EXPECT_THAT(Faults(stored, true), HasSubstr("elements [0,1)"));
}

TEST(CheckTilingTest, AllFaultsAtOnce) {
  StoredTensor stored = LinearQkv();
  stored.fragments.push_back({7, MakeMap({{0, 1}}, {{}}, 3)});
  stored.fragments.push_back({0, MakeMap({{0, 1}}, {{}}, 4)});
  stored.fragments.push_back(
      {1, MakeMap({{4, 6}, {0, 4}}, {{{2, 4}}, {{4, 1}}}, 60)});
  stored.zero_fill = {MakeBox({{15, 17}, {0, 4}}), MakeBox({{0, 4}})};
  EXPECT_THAT(
      Faults(stored),
      AllOf(HasSubstr("names logical tensor 7 but there are 3"),
            HasSubstr("box [0,1) of \"q_proj.weight\" in stored tensor "
                      "\"linear_qkv.weight\" has rank 1"),
            HasSubstr("box [4,6)x[0,4) of \"k_proj.weight\" in stored tensor "
                      "\"linear_qkv.weight\" exceeds logical shape [4,4]"),
            HasSubstr("reaches element 67"),
            HasSubstr("zero fill [15,17)x[0,4)"), HasSubstr("zero fill [0,4)"),
            HasSubstr("elements [3,4)"), HasSubstr("elements [4,5)"),
            Not(HasSubstr("written by no"))));
}

TEST(CheckTilingTest, EmptyStoredTensorNeedsNothing) {
  StoredTensor stored;
  stored.name = "tail";
  stored.shape = {0, 4};
  EXPECT_EQ(Faults(stored), "");
  stored.fragments = {{0, MakeMap({{8, 8}, {0, 4}}, {{}, {{4, 1}}})}};
  EXPECT_EQ(Faults(stored), "");
  stored.fragments = {{0, MakeMap({{7, 8}, {0, 4}}, {{}, {{4, 1}}})}};
  EXPECT_THAT(Faults(stored), HasSubstr("reaches element 3"));
}

TEST(CheckTilingTest, ShapeMustFit) {
  StoredTensor stored;
  stored.name = "huge";
  stored.shape = {std::numeric_limits<int64_t>::max(), 4};
  EXPECT_EQ(NumElements(stored).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Faults(stored), HasSubstr("\"huge\""));
  stored.shape = {4, -1};
  EXPECT_THAT(Faults(stored), HasSubstr("[4,-1]"));
}

TEST(CheckTilingTest, LogicalShapeMustBeValid) {
  StoredTensor stored;
  stored.name = "x";
  stored.shape = {1};
  stored.fragments = {{0, MakeMap({{0, 1}}, {{}})}};
  const absl::Status status =
      CheckTiling(stored, {{"y", tensor::DType::kF32, {-4}}}, false);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("\"y\""), HasSubstr("[-4]"), HasSubstr("\"x\"")));
}

TEST(CheckTilingTest, SaysWhatItCannotProve) {
  StoredTensor stored;
  stored.name = "x";
  const int64_t large = int64_t{1} << 34;
  stored.shape = {4 * large};
  stored.fragments = {{0, MakeMap({{0, large}}, {{{large, 2}}})},
                      {0, MakeMap({{0, large}}, {{{large, 3}}}, 1)}};
  const absl::Status status =
      CheckTiling(stored, {{"y", tensor::DType::kF32, {large}}}, true);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("\"x\""), HasSubstr("proven")));
}

// A scalar in a rank-0 stored tensor.
TEST(CheckTilingTest, Scalar) {
  StoredTensor stored;
  stored.name = "step";
  stored.fragments = {{0, IndexMap()}};
  EXPECT_TRUE(
      CheckTiling(stored, {{"step", tensor::DType::kI64, {}}}, false).ok());
  stored.fragments.clear();
  EXPECT_FALSE(CheckTiling(stored, {}, false).ok());
}

}  // namespace
}  // namespace weft::layout
