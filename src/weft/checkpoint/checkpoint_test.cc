#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/checkpoint/safetensors.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    std::string pattern = ::testing::TempDir() + "weft_checkpoint_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~CheckpointTest() override { fs::remove_all(folder_); }

  // A file of U8 tensors [1] whose only byte is the last letter of the name.
  void PutFile(const std::string& file_name,
               const std::vector<std::string>& names) const {
    std::vector<TensorToWrite> tensors;
    for (const std::string& name : names) {
      tensors.push_back(
          {{name, tensor::DType::kU8, {1}},
           {reinterpret_cast<const std::byte*>(&name.back()), 1}});
    }
    ASSERT_TRUE(
        WriteSafetensors((folder_ / file_name).string(), tensors, {}, false)
            .ok());
  }
  void PutIndex(const std::string& text) const {
    std::ofstream(folder_ / "model.safetensors.index.json") << text;
  }
  std::string OpenError() const {
    const absl::Status status = Checkpoint::Open(folder_.string()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }

  fs::path folder_;
};

TEST_F(CheckpointTest, OpensOneFile) {
  PutFile("model.safetensors", {"b", "a"});
  for (const fs::path& path : {folder_, folder_ / "model.safetensors"}) {
    const absl::StatusOr<Checkpoint> checkpoint =
        Checkpoint::Open(path.string());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    ASSERT_EQ(checkpoint->tensors().size(), 2u);
    EXPECT_EQ(checkpoint->tensors()[0].name, "a");
    EXPECT_EQ(checkpoint->tensors()[1].name, "b");
    EXPECT_EQ(checkpoint->total_bytes(), 2);
    EXPECT_EQ((*checkpoint->Data("b"))[0], std::byte{'b'});
    EXPECT_EQ(checkpoint->Spec("a")->shape, (tensor::Shape{1}));
    EXPECT_EQ(checkpoint->Data("c").status().code(),
              absl::StatusCode::kNotFound);
    EXPECT_EQ(checkpoint->Spec("c").status().code(),
              absl::StatusCode::kNotFound);
  }
}

TEST_F(CheckpointTest, SomethingMadeStandsInForTensors) {
  PutFile("model.safetensors", {"a", "b", "c"});
  Checkpoint checkpoint = *Checkpoint::Open(folder_.string());
  const Checkpoint before = checkpoint;
  std::vector<int64_t> made;
  checkpoint.Substitute({"ab", tensor::DType::kU8, {2, 3}},
                        {"a", "b", "absent"}, [&made](int64_t index) {
                          made.push_back(index);
                          return std::vector<std::byte>(
                              3, static_cast<std::byte>('x' + index));
                        });
  std::vector<std::string> names;
  for (const tensor::TensorSpec& spec : checkpoint.tensors()) {
    names.push_back(spec.name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"ab", "c"}));
  EXPECT_EQ(checkpoint.Spec("ab")->shape, (tensor::Shape{2, 3}));
  EXPECT_EQ(checkpoint.Data("a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(checkpoint.total_bytes(), 3);
  EXPECT_EQ(made, std::vector<int64_t>());
  EXPECT_TRUE(checkpoint.IsMade("ab"));
  EXPECT_FALSE(checkpoint.IsMade("c"));

  const Checkpoint copy = checkpoint;
  checkpoint = Checkpoint();
  const Checkpoint::Entry entry = *copy.EntryOf("ab", 1);
  EXPECT_EQ(std::vector<std::byte>(entry.bytes.begin(), entry.bytes.end()),
            std::vector<std::byte>(3, std::byte{'y'}));
  EXPECT_EQ(made, std::vector<int64_t>{1});
  // It is not kept: what is asked for again is made again.
  EXPECT_EQ(copy.EntryOf("ab", 1)->bytes[0], std::byte{'y'});
  EXPECT_EQ(made, (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(copy.EntryOf("ab", 2).status().code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(copy.EntryOf("a", 0).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(copy.Data("ab").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ((*copy.Data("c"))[0], std::byte{'c'});
  EXPECT_EQ(copy.EntryOf("c", 0)->bytes[0], std::byte{'c'});

  EXPECT_EQ((*before.Data("a"))[0], std::byte{'a'});
  EXPECT_EQ(before.Spec("ab").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, OpensAnIndex) {
  PutFile("x.safetensors", {"a", "c"});
  PutFile("y.safetensors", {"b"});
  PutIndex(R"({"metadata":{"total_size":3},"weight_map":{
      "a":"x.safetensors","b":"y.safetensors","c":"x.safetensors"}})");
  for (const fs::path& path :
       {folder_, folder_ / "model.safetensors.index.json"}) {
    const absl::StatusOr<Checkpoint> checkpoint =
        Checkpoint::Open(path.string());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    ASSERT_EQ(checkpoint->tensors().size(), 3u);
    EXPECT_EQ(checkpoint->total_bytes(), 3);
    for (const char* name : {"a", "b", "c"}) {
      EXPECT_EQ((*checkpoint->Data(name))[0], std::byte(name[0]));
    }
  }
}

TEST_F(CheckpointTest, ReportsEveryDisagreementAtOnce) {
  PutFile("x.safetensors", {"a", "twice", "unlisted"});
  PutFile("y.safetensors", {"b", "twice"});
  PutIndex(R"({"weight_map":{
      "a":"x.safetensors","b":"x.safetensors","twice":"y.safetensors",
      "absent":"y.safetensors","lost":"z.safetensors"}})");
  const std::string message = OpenError();
  for (const char* part :
       {"the index names z.safetensors: no file",
        "\"absent\" is not in y.safetensors", "\"b\" is not in x.safetensors",
        "\"b\" is in y.safetensors, but the index places it in x.safetensors",
        "\"twice\" is in x.safetensors, but the index places it in "
        "y.safetensors",
        "\"unlisted\" of x.safetensors is not in the index"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST_F(CheckpointTest, RefusesABadIndex) {
  PutIndex("{");
  EXPECT_THAT(OpenError(), HasSubstr("bad JSON"));
  PutIndex(R"({"metadata":{}})");
  EXPECT_THAT(OpenError(), HasSubstr("no object \"weight_map\""));
  PutIndex(R"({"weight_map":{"a":"f","a":"g"}})");
  EXPECT_THAT(OpenError(), HasSubstr("key \"a\" occurs twice"));
  PutIndex(R"({"weight_map":{"a":"../f","b":7,"c":""}})");
  const std::string message = OpenError();
  EXPECT_THAT(message, HasSubstr("\"a\" in \"../f\""));
  EXPECT_THAT(message, HasSubstr("\"b\" in 7"));
  EXPECT_THAT(message, HasSubstr("\"c\" in \"\""));
}

TEST_F(CheckpointTest, SaysWhatAFolderLacks) {
  const absl::Status status = Checkpoint::Open(folder_.string()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("holds neither model.safetensors nor"));
  EXPECT_EQ(Checkpoint::Open((folder_ / "no").string()).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace weft::checkpoint
