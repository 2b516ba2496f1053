#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rapidcheck.h"
#include "weft/checkpoint/safetensors.h"

namespace weft::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The bytes of a file, by hand: length, `json`, `data_bytes` zeros.
std::string FileOf(std::string_view json, int64_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) {
    file.push_back(static_cast<char>((json.size() >> (8 * i)) & 0xff));
  }
  file.append(json);
  file.append(static_cast<std::size_t>(data_bytes), '\0');
  return file;
}

absl::StatusOr<ParsedHeader> ParseFile(const std::string& file) {
  return ParseSafetensorsHeader(file, static_cast<int64_t>(file.size()));
}

TEST(ParseSafetensorsHeader, ReadsTensorsByOffset) {
  const std::string json =
      R"({"__metadata__":{"format":"pt"},)"
      R"("b":{"dtype":"F32","shape":[],"data_offsets":[12,16]},)"
      R"("a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
      R"("e":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]}}   )";
  const absl::StatusOr<ParsedHeader> header = ParseFile(FileOf(json, 16));
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->data_begin_bytes, static_cast<int64_t>(8 + json.size()));
  EXPECT_THAT(header->metadata,
              ::testing::ElementsAre(::testing::Pair("format", "pt")));
  ASSERT_EQ(header->tensors.size(), 3u);
  EXPECT_EQ(header->tensors[0].spec,
            (tensor::TensorSpec{"a", tensor::DType::kBF16, {2, 3}}));
  EXPECT_EQ(header->tensors[1].spec,
            (tensor::TensorSpec{"b", tensor::DType::kF32, {}}));
  EXPECT_EQ(header->tensors[1].begin_bytes, 12);
  EXPECT_EQ(header->tensors[1].end_bytes, 16);
  EXPECT_EQ(header->tensors[2].spec,
            (tensor::TensorSpec{"e", tensor::DType::kI64, {0, 7}}));
}

TEST(ParseSafetensorsHeader, AcceptsAnEmptyFile) {
  EXPECT_TRUE(ParseFile(FileOf("{}", 0)).ok());
}

struct Malformed {
  std::string what;
  std::string json;
  int64_t data_bytes;
  absl::StatusCode code;
  std::vector<std::string> in_message;
};

void PrintTo(const Malformed& malformed, std::ostream* out) {
  *out << malformed.what;
}

// A root object with one tensor "t" of the given fields.
std::string OneTensor(std::string_view fields) {
  return absl::StrCat(R"({"t":{)", std::string(fields), "}}");
}

class MalformedHeader : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedHeader, IsRefusedByName) {
  const Malformed& malformed = GetParam();
  const absl::StatusOr<ParsedHeader> header =
      ParseFile(FileOf(malformed.json, malformed.data_bytes));
  ASSERT_FALSE(header.ok());
  EXPECT_EQ(header.status().code(), malformed.code) << header.status();
  for (const std::string& part : malformed.in_message) {
    EXPECT_THAT(std::string(header.status().message()), HasSubstr(part));
  }
}

constexpr absl::StatusCode kBad = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kLoss = absl::StatusCode::kDataLoss;

INSTANTIATE_TEST_SUITE_P(
    Format, MalformedHeader,
    ::testing::Values(
        Malformed{"no object", "[1,2]", 0, kBad, {"'{'"}},
        Malformed{"leading space", " {}", 0, kBad, {"'{'"}},
        Malformed{"empty header", "", 0, kBad, {"'{'"}},
        Malformed{"cut JSON", R"({"t":{"dty)", 0, kBad, {"bad JSON"}},
        Malformed{"text after JSON", "{}{}", 0, kBad, {"bad JSON"}},
        Malformed{"no UTF-8", "{\"\xff\":1}", 0, kBad, {"bad JSON"}},
        Malformed{"deep nesting",
                  absl::StrCat("{\"t\":", std::string(100000, '['),
                               std::string(100000, ']'), "}"),
                  0,
                  kBad,
                  {"deeper than 3"}},
        Malformed{"a name twice",
                  R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                  R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                  1,
                  kBad,
                  {"key \"t\" occurs twice"}},
        Malformed{"a field twice",
                  OneTensor(R"("dtype":"U8","dtype":"U8","shape":[1],)"
                            R"("data_offsets":[0,1])"),
                  1,
                  kBad,
                  {"key \"dtype\" occurs twice"}},
        Malformed{"metadata of numbers",
                  R"({"__metadata__":{"a":1}})",
                  0,
                  kBad,
                  {"__metadata__ key a"}},
        Malformed{"metadata no object",
                  R"({"__metadata__":"x"})",
                  0,
                  kBad,
                  {"__metadata__"}},
        Malformed{"tensor no object", R"({"t":3})", 0, kBad, {"\"t\""}}));

INSTANTIATE_TEST_SUITE_P(
    Fields, MalformedHeader,
    ::testing::Values(
        Malformed{"fields missing",
                  OneTensor(""),
                  0,
                  kBad,
                  {"lacks the field dtype", "lacks the field shape",
                   "lacks the field data_offsets"}},
        Malformed{"unknown field",
                  OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],)"
                            R"("strides":[1])"),
                  1,
                  kBad,
                  {"\"t\" has the unknown field strides"}},
        Malformed{"unknown dtype",
                  OneTensor(R"("dtype":"Q4","shape":[1],"data_offsets":[0,1])"),
                  1,
                  kBad,
                  {"\"t\" has the unknown dtype Q4"}},
        Malformed{"dtype no string",
                  OneTensor(R"("dtype":7,"shape":[1],"data_offsets":[0,1])"),
                  1,
                  kBad,
                  {"unknown dtype 7"}},
        Malformed{
            "negative extent",
            OneTensor(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"),
            1,
            kBad,
            {"shape [-1]"}},
        Malformed{
            "fractional extent",
            OneTensor(R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])"),
            1,
            kBad,
            {"shape [1.0]"}},
        Malformed{"extent beyond 64 bits",
                  OneTensor(R"("dtype":"U8","shape":[18446744073709551617],)"
                            R"("data_offsets":[0,1])"),
                  1,
                  kBad,
                  {"shape"}},
        Malformed{"extent beyond 63 bits",
                  OneTensor(R"("dtype":"U8","shape":[9223372036854775808],)"
                            R"("data_offsets":[0,1])"),
                  1,
                  kBad,
                  {"shape"}},
        Malformed{"bytes overflow 64 bits to 0",
                  OneTensor(R"("dtype":"U8","shape":[4294967296,4294967296],)"
                            R"("data_offsets":[0,0])"),
                  0,
                  kBad,
                  {"more bytes than 64 bits"}},
        Malformed{"offsets reversed",
                  OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[1,0])"),
                  1,
                  kBad,
                  {"data_offsets [1,0]"}},
        Malformed{"one offset",
                  OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[1])"),
                  1,
                  kBad,
                  {"data_offsets [1]"}},
        Malformed{
            "shape and offsets disagree",
            OneTensor(R"("dtype":"BF16","shape":[2,2],"data_offsets":[0,6])"),
            6,
            kBad,
            {"\"t\"", "needs 8 bytes", "give 6"}}));

INSTANTIATE_TEST_SUITE_P(
    Tiling, MalformedHeader,
    ::testing::Values(
        Malformed{"overlap",
                  R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
                  7,
                  kBad,
                  {"\"b\" at bytes [3,7) overlaps tensor \"a\""}},
        Malformed{"the same bytes twice",
                  R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
                  4,
                  kBad,
                  {"\"b\"", "overlaps tensor \"a\""}},
        Malformed{"empty tensor inside another",
                  R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                  4,
                  kBad,
                  {"\"b\"", "overlaps"}},
        Malformed{"hole",
                  R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                  R"("b":{"dtype":"U8","shape":[1],"data_offsets":[6,7]}})",
                  7,
                  kBad,
                  {"bytes [4,6) before tensor \"b\""}},
        Malformed{"hole at the start",
                  OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[2,3])"),
                  3,
                  kBad,
                  {"bytes [0,2)"}},
        Malformed{"bytes after the last tensor",
                  OneTensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1])"),
                  3,
                  kBad,
                  {"bytes [1,3) at the end"}},
        Malformed{"data truncated",
                  OneTensor(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"),
                  8,
                  kLoss,
                  {"truncated", "take 9", "has 8"}},
        Malformed{"offsets out of range",
                  OneTensor(R"("dtype":"U8","shape":[1],)"
                            R"("data_offsets":[9223372036854775806,)"
                            R"(9223372036854775807])"),
                  8,
                  kBad,
                  {"belong to no tensor", "take 9223372036854775807"}},
        Malformed{"two faults at once",
                  R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,3]},)"
                  R"("b":{"dtype":"X","shape":[4],"data_offsets":[3,7]}})",
                  7,
                  kBad,
                  {"\"a\"", "\"b\" has the unknown dtype X"}}));

TEST(ParseSafetensorsHeader, RefusesALengthBeyondTheFile) {
  std::string file = FileOf("{}", 0);
  file[0] = 3;
  absl::Status status = ParseFile(file).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("header of 3"), HasSubstr("has 2")));
  // The highest length there is: 8 + it overflows.
  for (int i = 0; i < 8; ++i) file[static_cast<std::size_t>(i)] = '\xff';
  EXPECT_EQ(ParseFile(file).status().code(), absl::StatusCode::kDataLoss);
}

TEST(ParseSafetensorsHeader, RefusesEveryTruncation) {
  const std::string file =
      FileOf(OneTensor(R"("dtype":"U8","shape":[5],"data_offsets":[0,5])"), 5);
  ASSERT_TRUE(ParseFile(file).ok());
  for (std::size_t length = 0; length < file.size(); ++length) {
    EXPECT_EQ(ParseFile(file.substr(0, length)).status().code(),
              absl::StatusCode::kDataLoss)
        << length;
  }
}

TEST(ParseSafetensorsHeader, RefusesAHugeHeader) {
  std::string head = FileOf("", 0);
  const uint64_t length = kMaxHeaderBytes + 1;
  for (int i = 0; i < 8; ++i) {
    head[static_cast<std::size_t>(i)] = static_cast<char>(length >> (8 * i));
  }
  const absl::Status status =
      ParseSafetensorsHeader(head, int64_t{1} << 40).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("100000000"));
}

__extension__ using Wide = __int128;

// Whatever is accepted tiles the data section; checked without the parser's
// own arithmetic, over 128-bit integers.
void CheckAccepted(const ParsedHeader& header, std::size_t file_bytes) {
  Wide at = 0;
  for (const TensorEntry& entry : header.tensors) {
    Wide bytes = tensor::ItemBytes(entry.spec.dtype);
    for (const int64_t extent : entry.spec.shape) bytes *= extent;
    RC_ASSERT(entry.begin_bytes == at);
    RC_ASSERT(entry.end_bytes - entry.begin_bytes == bytes);
    at = entry.end_bytes;
  }
  RC_ASSERT(header.data_begin_bytes + at == static_cast<Wide>(file_bytes));
}

TEST(ParseSafetensorsHeader, SurvivesMutations) {
  const std::string original =
      FileOf(R"({"__metadata__":{"f":"pt"},)"
             R"("a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
             R"("b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
             16);
  ASSERT_TRUE(rc::check("a mutated file is refused or still tiles", [&] {
    std::string file = original;
    const int edits = *rc::gen::inRange(1, 4);
    for (int i = 0; i < edits; ++i) {
      const auto at = *rc::gen::inRange<std::size_t>(0, file.size());
      const char byte = *rc::gen::oneOf(
          rc::gen::arbitrary<char>(),
          rc::gen::elementOf(std::string("0123456789{}[]\",:-e. ")));
      switch (*rc::gen::inRange(0, 3)) {
        case 0:
          file[at] = byte;
          break;
        case 1:
          file.insert(at, 1, byte);
          break;
        default:
          file.erase(at, 1);
      }
    }
    const absl::StatusOr<ParsedHeader> header = ParseFile(file);
    if (header.ok()) CheckAccepted(*header, file.size());
    RC_CLASSIFY(header.ok());
  }));
}

}  // namespace
}  // namespace weft::checkpoint
