#include "weft/base/read_file.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace weft::base {
namespace {

TEST(ReadFileTest, BytesAsTheyAre) {
  std::string folder =
      (std::filesystem::temp_directory_path() / "weft_read_XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/file";
  for (const std::string& bytes :
       {std::string(), std::string("a\0\r\nb", 5), std::string(1 << 14, 'x'),
        std::string((1 << 15) + 1, 'y')}) {
    std::ofstream(path, std::ios::binary) << bytes;
    const auto read = ReadFile(path);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, bytes);
  }
  std::filesystem::remove_all(folder);
}

TEST(ReadFileTest, WhatCannotBeReadIsNamedWithTheReason) {
  const absl::Status missing = ReadFile("/nowhere/file").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.message(),
            "cannot read \"/nowhere/file\": No such file or directory");
  const absl::Status folder = ReadFile("/").status();
  EXPECT_EQ(folder.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(folder.message(), "cannot read \"/\": Is a directory");
}

}  // namespace
}  // namespace weft::base
