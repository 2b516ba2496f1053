#include "weft/catalog/access/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

namespace weft::catalog {
namespace {

using ::absl::StatusCode;
using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;

using TimePoint = RateLimit::TimePoint;

TEST(RateLimitTest, ABucketIsEmptiedAndFilled) {
  TimePoint now{};
  RateLimit limit(10, 3, [&now] { return now; });
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limit.Take("a").admitted);
  const auto refused = limit.Take("a");
  EXPECT_FALSE(refused.admitted);
  EXPECT_TRUE(refused.is_first);
  EXPECT_EQ(refused.retry_after, milliseconds(100));
  EXPECT_FALSE(limit.Take("a").is_first);
  EXPECT_TRUE(limit.Take("b").admitted) << "each has its own";
  now += milliseconds(99);
  EXPECT_FALSE(limit.Take("a").admitted);
  now += milliseconds(2);
  EXPECT_TRUE(limit.Take("a").admitted);
  EXPECT_TRUE(limit.Take("a").is_first);
  now += std::chrono::hours(1);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limit.Take("a").admitted);
  EXPECT_FALSE(limit.Take("a").admitted) << "no more than a full bucket";
}

// Against a list of the times of what was admitted: in any window of t seconds
// there are at most burst + rate * t.
TEST(RateLimitTest, NoWindowHoldsMoreThanItMay) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  TimePoint now{};
  RateLimit limit(50, 7, [&now] { return now; });
  std::vector<TimePoint> admitted;
  for (int i = 0; i < 2000; ++i) {
    now += milliseconds(random() % 20);
    if (limit.Take("a").admitted) admitted.push_back(now);
  }
  for (size_t first = 0; first < admitted.size(); ++first) {
    for (size_t last = first; last < admitted.size(); ++last) {
      const std::chrono::duration<double> window =
          admitted[last] - admitted[first];
      ASSERT_LE(last - first + 1, 7 + 50 * window.count() + 1e-6);
    }
  }
}

TEST(RateLimitTest, ClientsThatAreGoneAreForgotten) {
  TimePoint now{};
  RateLimit limit(1000, 10, [&now] { return now; });
  for (int i = 0; i < 100'000; ++i) {
    now += milliseconds(1);
    limit.Take(std::to_string(i));
  }
  EXPECT_LE(limit.clients(), 1100u);
}

class GateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/weft-gate-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    std::ofstream(folder_ + "/tokens") << "publish trainer token-of-a-trainer\n"
                                          "publish rival token-of-its-rival\n"
                                          "receive engine token-of-an-engine\n"
                                          "read viewer token-of-a-viewer\n"
                                          "admin ops token-of-a-person\n";
    chmod((folder_ + "/tokens").c_str(), 0600);
    auto gate = Gate::Make(
        {.token_file = folder_ + "/tokens", .audit_file = folder_ + "/audit"});
    ASSERT_TRUE(gate.ok()) << gate.status();
    gate_ = *std::move(gate);
  }
  void TearDown() override {
    for (const char* name : {"/tokens", "/audit", "/audit.1"}) {
      unlink((folder_ + name).c_str());
    }
    rmdir(folder_.c_str());
  }

  absl::Status Call(const std::string& token, const CallFacts& facts) {
    const Caller caller{.peer = "ipv4:10.0.0.7:1234", .token = token};
    const auto admission = gate_->Admit(
        caller, facts,
        [this](const std::string& id) -> absl::StatusOr<std::string> {
          ++asked_;
          if (!owners_.contains(id)) return absl::NotFoundError("");
          return owners_[id];
        });
    gate_->Record(caller, facts, admission, admission.status);
    return admission.status;
  }
  std::vector<nlohmann::json> Audit(const std::string& name = "/audit") {
    std::vector<nlohmann::json> lines;
    std::ifstream file(folder_ + name);
    for (std::string line; std::getline(file, line);) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  std::string folder_;
  std::unique_ptr<Gate> gate_;
  std::map<std::string, std::string> owners_ = {{"w1", "trainer"}, {"w2", ""}};
  int asked_ = 0;
};

TEST_F(GateTest, ARoleIsWanted) {
  const CallFacts publish{.call = "PublishShard", .any_of = kMayPublish};
  EXPECT_EQ(Call("token-of-a-trainer", publish), absl::OkStatus());
  EXPECT_EQ(Call("token-of-a-person", publish), absl::OkStatus());
  const absl::Status viewer = Call("token-of-a-viewer", publish);
  EXPECT_EQ(viewer.code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(viewer.message(),
            "token \"viewer\" may read; PublishShard wants publish");
  EXPECT_EQ(Call("", publish).code(), StatusCode::kUnauthenticated);
  EXPECT_EQ(Call("token-of-nobody-here", publish).code(),
            StatusCode::kUnauthenticated);
}

TEST_F(GateTest, AWorkerIsItsOwners) {
  CallFacts facts{.call = "Detach", .any_of = kMayPublish, .worker = "w1"};
  EXPECT_EQ(Call("token-of-a-trainer", facts), absl::OkStatus());
  EXPECT_EQ(Call("token-of-a-person", facts), absl::OkStatus());
  const absl::Status rival = Call("token-of-its-rival", facts);
  EXPECT_EQ(rival.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(rival.message()),
              HasSubstr("registered with token \"trainer\", not with "
                        "\"rival\""));
  EXPECT_EQ(asked_, 1) << "it does not change";
  facts.worker = "w2";
  EXPECT_EQ(Call("token-of-a-trainer", facts).code(),
            StatusCode::kPermissionDenied);
  facts.worker = "w3";
  EXPECT_EQ(Call("token-of-a-trainer", facts), absl::OkStatus());
}

TEST_F(GateTest, ChangesAndRefusalsAreWrittenDown) {
  CallFacts change{.call = "Register",
                   .any_of = kMayPublish,
                   .changes = true,
                   .worker = "w1",
                   .model = "m",
                   .subject = "\x1b[2Jtwo\nlines"};
  ASSERT_EQ(Call("token-of-a-trainer", change), absl::OkStatus());
  Call("token-of-a-viewer", {.call = "ListWorkers", .any_of = kMayRead})
      .IgnoreError();
  Call("token-of-nobody-here", {.call = "ListWorkers", .any_of = kMayRead})
      .IgnoreError();
  const auto lines = Audit();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["token"], "trainer");
  EXPECT_EQ(lines[0]["call"], "Register");
  EXPECT_EQ(lines[0]["worker"], "w1");
  EXPECT_EQ(lines[0]["model"], "m");
  EXPECT_EQ(lines[0]["peer"], "ipv4:10.0.0.7:1234");
  EXPECT_EQ(lines[0]["subject"], "?[2Jtwo?lines");
  EXPECT_EQ(lines[0]["outcome"], "OK");
  EXPECT_EQ(std::string(lines[0]["time"]).size(), 24u);
  EXPECT_EQ(lines[1]["outcome"], "UNAUTHENTICATED");
  EXPECT_FALSE(lines[1].contains("token"));
  for (const auto& line : lines) {
    EXPECT_THAT(line.dump(), Not(HasSubstr("token-of")));
  }
  struct stat made {};
  ASSERT_EQ(stat((folder_ + "/audit").c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 0777, 0600u);
  // A rotated file is left alone.
  ASSERT_EQ(
      rename((folder_ + "/audit").c_str(), (folder_ + "/audit.1").c_str()), 0);
  ASSERT_EQ(Call("token-of-a-trainer", change), absl::OkStatus());
  EXPECT_EQ(Audit("/audit.1").size(), 2u);
  EXPECT_EQ(Audit().size(), 1u);
}

TEST(GateLimitTest, ARateIsOfATokenOrAHost) {
  const auto gate = Gate::Make({.calls_per_second = 1});
  ASSERT_TRUE(gate.ok());
  const auto never = [](const std::string&) -> absl::StatusOr<std::string> {
    return absl::NotFoundError("");
  };
  const auto admit = [&](const std::string& peer) {
    return (*gate)->Admit({.peer = peer}, {.call = "ListWorkers"}, never);
  };
  EXPECT_TRUE(admit("ipv4:10.0.0.7:1").status.ok());
  EXPECT_TRUE(admit("ipv4:10.0.0.7:2").status.ok());
  const auto refused = admit("ipv4:10.0.0.7:3");
  EXPECT_EQ(refused.status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status.message()),
              HasSubstr("ipv4:10.0.0.7 has made more than 1 calls a second"));
  EXPECT_GT(refused.retry_after.count(), 0);
  EXPECT_FALSE(refused.silent);
  EXPECT_TRUE(admit("ipv4:10.0.0.7:4").silent);
  EXPECT_TRUE(admit("ipv4:10.0.0.8:1").status.ok());
}

}  // namespace
}  // namespace weft::catalog
