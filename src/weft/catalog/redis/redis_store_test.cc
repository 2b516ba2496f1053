// The suite over Redis: through one server, and through two at once.
#include "weft/catalog/redis/redis_store.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/redis_process.h"

namespace weft::catalog {
namespace {

using testing::RedisProcess;
using testing::StoreConformanceTest;
using testing::StoreMaker;
using testing::StoreSetup;
using testing::StoreUnderTest;

// One for all tests of this program; each has keys of its own.
RedisProcess& Redis() {
  static RedisProcess redis(/*durable=*/false);
  return redis;
}

std::unique_ptr<CatalogStore> Connect(const std::string& url,
                                      const StoreSetup& setup,
                                      uint64_t entries_a_snapshot) {
  auto store = MakeRedisStore(url, {.now = setup.now,
                                    .lease_duration = setup.lease_duration,
                                    .attach_within = setup.attach_within,
                                    .entries_a_snapshot = entries_a_snapshot});
  EXPECT_EQ(store.status(), absl::OkStatus());
  return store.ok() ? *std::move(store) : nullptr;
}

class OneServer : public StoreUnderTest {
 public:
  explicit OneServer(std::unique_ptr<CatalogStore> store)
      : store_(std::move(store)) {}
  static std::unique_ptr<StoreUnderTest> Make(const StoreSetup& setup) {
    auto store = Connect(Redis().NewUrl(), setup, 0);
    if (store == nullptr) return nullptr;
    return std::make_unique<OneServer>(std::move(store));
  }
  CatalogStore& first() override { return *store_; }
  CatalogStore& second() override { return *store_; }

 private:
  std::unique_ptr<CatalogStore> store_;
};

// Each call of the suite goes to the other server than the one before, while
// snapshots are written and the log is cut all the time.
class TwoServers : public StoreUnderTest {
 public:
  static std::unique_ptr<StoreUnderTest> Make(const StoreSetup& setup) {
    auto made = std::make_unique<TwoServers>();
    const std::string url = Redis().NewUrl();
    for (auto& store : made->stores_) {
      store = Connect(url, setup, 50);
      if (store == nullptr) return nullptr;
    }
    return made;
  }
  CatalogStore& first() override { return Next(); }
  CatalogStore& second() override { return Next(); }

 private:
  CatalogStore& Next() { return *stores_[next_++ % 2]; }
  std::unique_ptr<CatalogStore> stores_[2];
  std::atomic<unsigned> next_{0};
};

TEST(RedisNotesTest, ARedisThatForgetsIsSaidToBeOne) {
  const auto notes_of = [](RedisProcess& redis) {
    std::vector<std::string> notes;
    const auto store = MakeRedisStore(
        redis.NewUrl(), {.on_note = [&notes](const std::string& line) {
          notes.push_back(line);
        }});
    EXPECT_EQ(store.status(), absl::OkStatus());
    return notes;
  };
  const auto notes = notes_of(Redis());
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("appendonly no"), std::string::npos) << notes[0];
  RedisProcess durable(/*durable=*/true);
  EXPECT_TRUE(notes_of(durable).empty());
}

INSTANTIATE_TEST_SUITE_P(Redis, StoreConformanceTest,
                         ::testing::Values(StoreMaker{"redis", OneServer::Make},
                                           StoreMaker{"redis_two_servers",
                                                      TwoServers::Make}));

}  // namespace
}  // namespace weft::catalog
