#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <string>

#include "weft/catalog/limits.h"
#include "weft/catalog/store.h"

namespace weft::catalog {
namespace {

constexpr char kNameCharacters[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-";

TEST(VersionIdTest, Prints) {
  EXPECT_EQ(ToString(VersionId{"run", 3, 17}), "run:3:17");
  EXPECT_EQ(ToString(VersionId{"a/b", 0, ~uint64_t{0}}),
            "a/b:0:18446744073709551615");
}

TEST(VersionIdTest, ParsesWhatItPrints) {
  ASSERT_TRUE(rc::check("ParseVersionId(ToString(v)) == v", [] {
    const std::string name = *rc::gen::suchThat(
        rc::gen::container<std::string>(
            rc::gen::elementOf(std::string(kNameCharacters))),
        [](const std::string& s) { return !s.empty() && s.size() <= 128; });
    const VersionId version{name, *rc::gen::arbitrary<uint64_t>(),
                            *rc::gen::arbitrary<uint64_t>()};
    const auto parsed = ParseVersionId(ToString(version));
    RC_ASSERT(parsed.ok());
    RC_ASSERT(*parsed == version);
  }));
}

TEST(VersionIdTest, RefusesAndSaysWhy) {
  const auto refused = [](const std::string& text, const std::string& why) {
    const absl::Status status = ParseVersionId(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(status.message().find(why), std::string::npos) << status;
  };
  refused("", "RUN:EPOCH:STEP");
  refused("run", "\"run\"");
  refused("run:1", "RUN:EPOCH:STEP");
  refused("run:1:2:3", "RUN:EPOCH:STEP");
  refused(":1:2", "run id is empty");
  refused("a b:1:2", "\"a b\"");
  refused("run::2", "epoch");
  refused("run:1:", "step");
  refused("run:-1:2", "epoch \"-1\"");
  refused("run:+1:2", "epoch \"+1\"");
  refused("run: 1:2", "epoch");
  refused("run:1:2x", "step \"2x\"");
  refused("run:1:0x2", "step");
  refused("run:1:18446744073709551616", "18446744073709551616");
  refused(std::string("run:1:2\0", 8), "step");
}

TEST(CheckNameTest, AllowsItsCharactersAndLength) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string name(1, static_cast<char>(byte));
    const bool allowed = byte != 0 && std::string(kNameCharacters).find(name) !=
                                          std::string::npos;
    EXPECT_EQ(CheckName("model", name).ok(), allowed) << byte;
  }
  EXPECT_TRUE(CheckName("model", std::string(128, 'x')).ok());
  const absl::Status status = CheckName("model", std::string(129, 'x'));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("129"), std::string::npos) << status;
  EXPECT_NE(status.message().find("128"), std::string::npos) << status;
}

TEST(CleanReasonTest, IsPrintableAndShort) {
  EXPECT_EQ(CleanReason("rank 2: \xc3\xa9\n"), "rank 2: ???");
  EXPECT_EQ(CleanReason(std::string(5000, 'x')), std::string(4096, 'x'));
  EXPECT_EQ(CleanReason(""), "");
}

TEST(VersionStateTest, Prints) {
  EXPECT_EQ(ToString(VersionState::kStaging), "STAGING");
  EXPECT_EQ(ToString(VersionState::kReady), "READY");
  EXPECT_EQ(ToString(VersionState::kRetiring), "RETIRING");
  EXPECT_EQ(ToString(VersionState::kGone), "GONE");
}

}  // namespace
}  // namespace weft::catalog
