#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rapidcheck.h"
#include "weft/checkpoint/safetensors.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SafetensorsFileTest : public ::testing::Test {
 protected:
  SafetensorsFileTest() {
    std::string pattern = ::testing::TempDir() + "weft_safetensors_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~SafetensorsFileTest() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const {
    return (folder_ / name).string();
  }
  std::vector<std::string> Listing() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
  static std::string Contents(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream),
            std::istreambuf_iterator<char>()};
  }
  static void Put(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }

  fs::path folder_;
};

absl::Span<const std::byte> Bytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string Text(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST_F(SafetensorsFileTest, WritesTheFormatByteForByte) {
  const std::string data = "abcdef";
  ASSERT_TRUE(WriteSafetensors(Path("f"),
                               {{{"y", tensor::DType::kBF16, {2, 1}},
                                 Bytes(data.substr(0, 4))},
                                {{"x", tensor::DType::kU8, {2}}, Bytes("ef")}},
                               {{"format", "pt"}}, /*overwrite=*/false)
                  .ok());
  // Written out by hand from the format's description: keys in file order,
  // spaces up to a multiple of 8.
  const std::string json =
      R"({"__metadata__":{"format":"pt"},)"
      R"("y":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},)"
      R"("x":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})";
  const std::string contents = Contents(Path("f"));
  ASSERT_EQ(json.size(), 140u);
  EXPECT_EQ(contents.substr(0, 8), std::string("\x90\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(contents.substr(8), json + "    " + "abcdef");
}

TEST_F(SafetensorsFileTest, RandomRoundTrip) {
  const std::vector<tensor::DType> dtypes = {
      tensor::DType::kBool,   tensor::DType::kF8E4M3, tensor::DType::kF16,
      tensor::DType::kBF16,   tensor::DType::kF32,    tensor::DType::kF64,
      tensor::DType::kF8E8M0, tensor::DType::kI64};
  ASSERT_TRUE(rc::check("what is written is read", [&] {
    const int count = *rc::gen::inRange(0, 6);
    std::vector<std::string> data(static_cast<std::size_t>(count));
    std::vector<TensorToWrite> tensors;
    for (int i = 0; i < count; ++i) {
      TensorToWrite tensor;
      tensor.spec.name = absl::StrCat(
          *rc::gen::elementOf(std::vector<std::string>{"w", "\"\\\n", "ü"}), i);
      tensor.spec.dtype = *rc::gen::elementOf(dtypes);
      int64_t bytes = tensor::ItemBytes(tensor.spec.dtype);
      const int rank = *rc::gen::inRange(0, 4);
      for (int dim = 0; dim < rank; ++dim) {
        tensor.spec.shape.push_back(*rc::gen::inRange(0, 5));
        bytes *= tensor.spec.shape.back();
      }
      data[i] = *rc::gen::container<std::string>(
          static_cast<std::size_t>(bytes), rc::gen::arbitrary<char>());
      tensor.data = Bytes(data[i]);
      tensors.push_back(tensor);
    }
    const std::map<std::string, std::string> metadata = {{"k", "v\n"}};
    RC_ASSERT(WriteSafetensors(Path("r"), tensors, metadata, true).ok());
    const auto file = SafetensorsFile::Open(Path("r"));
    RC_ASSERT(file.ok());
    RC_ASSERT((*file)->header().metadata == metadata);
    RC_ASSERT((*file)->header().data_begin_bytes % 8 == 0);
    RC_ASSERT((*file)->header().tensors.size() == tensors.size());
    for (const TensorEntry& entry : (*file)->header().tensors) {
      bool found = false;
      for (const TensorToWrite& tensor : tensors) {
        if (!(tensor.spec == entry.spec)) continue;
        found = true;
        RC_ASSERT(Text((*file)->Data(entry)) == Text(tensor.data));
      }
      RC_ASSERT(found);
    }
  }));
}

TEST_F(SafetensorsFileTest, KeepsAnExistingFile) {
  Put(Path("f"), "precious");
  const absl::Status status = WriteSafetensors(Path("f"), {}, {}, false);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("f")));
  EXPECT_EQ(Contents(Path("f")), "precious");
  EXPECT_THAT(Listing(), ::testing::ElementsAre("f"));
  EXPECT_EQ(CheckMayCreate(Path("f")), status);
  EXPECT_TRUE(CheckMayCreate(Path("g")).ok());
  EXPECT_TRUE(WriteSafetensors(Path("f"), {}, {}, true).ok());
  EXPECT_NE(Contents(Path("f")), "precious");
}

TEST_F(SafetensorsFileTest, KeepsADanglingLink) {
  fs::create_symlink("nowhere", Path("f"));
  EXPECT_EQ(WriteSafetensors(Path("f"), {}, {}, false).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs::is_symlink(Path("f")));
}

// Of many writers of one new path exactly one succeeds: no check-then-act.
TEST_F(SafetensorsFileTest, OneOfManyWritersWins) {
  constexpr int kWriters = 8;
  std::vector<absl::Status> results(kWriters);
  std::vector<std::string> data;
  for (int i = 0; i < kWriters; ++i) data.push_back(absl::StrCat(i));
  std::vector<std::thread> writers;
  for (int i = 0; i < kWriters; ++i) {
    writers.emplace_back([&, i] {
      results[i] = WriteSafetensors(
          Path("f"), {{{"t", tensor::DType::kU8, {1}}, Bytes(data[i])}}, {},
          false);
    });
  }
  for (std::thread& writer : writers) writer.join();
  int winner = -1;
  for (int i = 0; i < kWriters; ++i) {
    if (results[i].ok()) {
      EXPECT_EQ(winner, -1);
      winner = i;
    } else {
      EXPECT_EQ(results[i].code(), absl::StatusCode::kAlreadyExists);
    }
  }
  ASSERT_GE(winner, 0);
  const std::string contents = Contents(Path("f"));
  EXPECT_EQ(contents.back(), data[winner][0]);
  EXPECT_THAT(Listing(), ::testing::ElementsAre("f"));
}

// A file size limit acts on every file system as a full disk does on one.
TEST_F(SafetensorsFileTest, FullDiskLeavesNothingBehind) {
  struct rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  struct rlimit limit = old_limit;
  limit.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string data(8192, 'x');
  const absl::Status status = WriteSafetensors(
      Path("f"), {{{"t", tensor::DType::kU8, {8192}}, Bytes(data)}}, {}, false);
  setrlimit(RLIMIT_FSIZE, &old_limit);
  signal(SIGXFSZ, old_handler);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("f")));
  EXPECT_THAT(std::string(status.message()), HasSubstr("8264 bytes"));
  EXPECT_THAT(Listing(), IsEmpty());
}

TEST_F(SafetensorsFileTest, NamesAMissingFolder) {
  const absl::Status status =
      WriteSafetensors(Path("no/f"), {}, {}, /*overwrite=*/false);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(Path("no/f")));
  EXPECT_EQ(CheckMayCreate(Path("no/f")), status);
  EXPECT_EQ(WriteSafetensors(Path("no/f"), {}, {}, true).code(),
            absl::StatusCode::kNotFound);
}

TEST_F(SafetensorsFileTest, DoesNotReplaceAFolder) {
  fs::create_directory(Path("d"));
  EXPECT_FALSE(WriteSafetensors(Path("d"), {}, {}, true).ok());
  EXPECT_THAT(Listing(), ::testing::ElementsAre("d"));
}

TEST_F(SafetensorsFileTest, RefusesWhatItCouldNotRead) {
  const std::string four = "1234";
  const TensorToWrite good{{"t", tensor::DType::kU8, {4}}, Bytes(four)};
  const TensorToWrite wrong_bytes{{"u", tensor::DType::kU8, {3}}, Bytes(four)};
  const TensorToWrite wrapping{
      {"v", tensor::DType::kF32, {int64_t{1} << 62, 1}}, Bytes("")};
  const TensorToWrite reserved{{"__metadata__", tensor::DType::kU8, {4}},
                               Bytes(four)};
  const absl::Status status = WriteSafetensors(
      Path("f"), {good, good, wrong_bytes, wrapping, reserved}, {}, false);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* part : {"\"t\"", "\"u\"", "\"v\"", "\"__metadata__\""}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
  const TensorToWrite no_utf8{{"\xff", tensor::DType::kU8, {4}}, Bytes(four)};
  EXPECT_EQ(WriteSafetensors(Path("f"), {no_utf8}, {}, false).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Listing(), IsEmpty());
}

TEST_F(SafetensorsFileTest, OpenRefusesWhatIsNoFile) {
  EXPECT_EQ(SafetensorsFile::Open(Path("none")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open(folder_.string()).status().code(),
            absl::StatusCode::kInvalidArgument);
  // Opening a pipe for reading would block until a writer comes.
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(SafetensorsFile::Open(Path("pipe")).status().code(),
            absl::StatusCode::kInvalidArgument);
  Put(Path("empty"), "");
  const absl::Status empty = SafetensorsFile::Open(Path("empty")).status();
  EXPECT_EQ(empty.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(empty.message()), HasSubstr(Path("empty")));
}

}  // namespace
}  // namespace weft::checkpoint
