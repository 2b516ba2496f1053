#include "weft/catalog/access/tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "weft/catalog/access/changing_file.h"

namespace weft::catalog {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// As `printf %s correct-horse-battery | sha256sum` prints it.
constexpr char kHorse[] = "correct-horse-battery";
constexpr char kHorseDigest[] =
    "62249369389075490555a758353aec61500c6218fa597252d52dc4bd0148f12d";

TEST(TokensTest, ALineNamesRolesAndAToken) {
  const auto table = TokenTable::Parse(
      "# comment\n\n"
      "publish  trainer  the-token-of-a-trainer\n"
      "\treceive,read engine/1 the-token-of-an-engine\r\n"
      "admin ops the-token-of-a-person");
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->entries().size(), 3u);
  const TokenEntry* engine = table->Find("the-token-of-an-engine");
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->name, "engine/1");
  EXPECT_EQ(engine->roles, kMayReceive | kMayRead);
  EXPECT_EQ(RolesText(engine->roles), "receive, read");
  EXPECT_EQ(table->Find("the-token-of-an-enginE"), nullptr);
  EXPECT_EQ(table->Find(""), nullptr);
}

TEST(TokensTest, TwoTokensOfOneNameAreForRotation) {
  const auto table = TokenTable::Parse(
      "publish trainer the-old-token-of-it\npublish trainer "
      "the-new-token-of-it\n");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->Find("the-old-token-of-it")->name, "trainer");
  EXPECT_EQ(table->Find("the-new-token-of-it")->name, "trainer");
  const auto differ = TokenTable::Parse(
      "publish trainer the-old-token-of-it\nread trainer the-new-token-of-it");
  EXPECT_THAT(std::string(differ.status().message()),
              HasSubstr("line 2: \"trainer\" has the roles publish"));
}

TEST(TokensTest, AllFaultsAtOnceAndNoTokenInThem) {
  const auto table = TokenTable::Parse(
      "publish trainer secret-secret-secret extra\n"
      "paint trainer secret-secret-secret\n"
      "read trai!ner secret-secret-secret\n"
      "read short secret\n"
      "read hash sha256:SECRETSECRET\n"
      "read a same-same-same-same\nread b same-same-same-same\n");
  ASSERT_EQ(table.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(table.status().message());
  for (const char* each : {"line 1", "line 2: unknown role \"paint\"", "line 3",
                           "line 4", "line 5", "line 7"}) {
    EXPECT_THAT(message, HasSubstr(each));
  }
  EXPECT_THAT(message, Not(HasSubstr("line 6")));
  EXPECT_THAT(message, Not(HasSubstr("secret")));
  EXPECT_THAT(message, Not(HasSubstr("SECRET")));
  EXPECT_THAT(message, Not(HasSubstr("same-same")));
  EXPECT_FALSE(TokenTable::Parse("# nobody\n").ok());
}

TEST(TokensTest, ADigestStandsForItsToken) {
  const auto table =
      TokenTable::Parse(std::string("read p sha256:") + kHorseDigest);
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_NE(table->Find(kHorse), nullptr);
}

class TokenFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/weft-tokens-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    path_ = std::string(folder) + "/tokens";
  }
  void TearDown() override {
    unlink(path_.c_str());
    rmdir(path_.substr(0, path_.rfind('/')).c_str());
  }
  // A new file in the place of the old one, as a careful person does.
  void Put(const std::string& text, mode_t mode = 0600) {
    const std::string fresh = path_ + ".new";
    std::ofstream(fresh) << text;
    chmod(fresh.c_str(), mode);
    ASSERT_EQ(rename(fresh.c_str(), path_.c_str()), 0);
  }
  auto Open() {
    return ChangingFile<TokenTable>::Open(
        "token", path_, TokenTable::Parse,
        [this](const std::string& line) { notes_.push_back(line); });
  }

  std::string path_;
  std::vector<std::string> notes_;
};

TEST_F(TokenFileTest, OthersMayNotReadIt) {
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kNotFound);
  for (const mode_t mode : {0640, 0604, 0620, 0602, 0777}) {
    Put("read p the-token-of-a-person", mode);
    const auto opened = Open();
    EXPECT_EQ(opened.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("chmod 600"));
  }
  Put("read p the-token-of-a-person", 0400);
  EXPECT_TRUE(Open().ok());
}

TEST_F(TokenFileTest, AChangeIsSeenAndABadOneIsNot) {
  Put("read p the-first-token-of-it");
  const auto file = Open();
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_NE((*file)->Get()->Find("the-first-token-of-it"), nullptr);
  Put("read p the-second-token-of-it");
  EXPECT_EQ((*file)->Get()->Find("the-first-token-of-it"), nullptr);
  EXPECT_NE((*file)->Get()->Find("the-second-token-of-it"), nullptr);
  ASSERT_EQ(notes_.size(), 1u);

  Put("nonsense");
  EXPECT_NE((*file)->Get()->Find("the-second-token-of-it"), nullptr);
  EXPECT_NE((*file)->Get()->Find("the-second-token-of-it"), nullptr);
  ASSERT_EQ(notes_.size(), 2u) << "said once";
  EXPECT_THAT(notes_[1], HasSubstr("stays in force"));
  Put("read p the-third-token-of-it", 0644);
  EXPECT_NE((*file)->Get()->Find("the-second-token-of-it"), nullptr);
  unlink(path_.c_str());
  EXPECT_NE((*file)->Get()->Find("the-second-token-of-it"), nullptr);
  Put("read p the-third-token-of-it");
  EXPECT_NE((*file)->Get()->Find("the-third-token-of-it"), nullptr);
}

}  // namespace
}  // namespace weft::catalog
