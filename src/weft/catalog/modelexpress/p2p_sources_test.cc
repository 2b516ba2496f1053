#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "weft/catalog/modelexpress/p2p_sources_internal.h"

namespace weft::catalog {
namespace {

mx::PublishMetadataRequest Publication(
    const std::string& model, const std::string& worker, uint32_t rank,
    mx::SourceStatus status = mx::SOURCE_STATUS_READY) {
  mx::PublishMetadataRequest request;
  request.mutable_identity()->set_model_name(model);
  request.set_worker_id(worker);
  request.mutable_worker()->set_worker_rank(rank);
  request.mutable_worker()->set_status(status);
  return request;
}

std::vector<std::string> ListedWorkers(ModelExpressSources& sources,
                                       const mx::ListSourcesRequest& filter,
                                       int64_t now_ms) {
  const auto listed = sources.List(filter, now_ms);
  EXPECT_TRUE(listed.ok()) << listed.status();
  std::vector<std::string> workers;
  for (const auto& row : listed->instances())
    workers.push_back(row.worker_id());
  return workers;
}

mx::UpdateStatusRequest Heartbeat(const std::string& source,
                                  const std::string& worker, uint32_t rank,
                                  mx::SourceStatus status) {
  mx::UpdateStatusRequest request;
  request.set_mx_source_id(source);
  request.set_worker_id(worker);
  request.set_worker_rank(rank);
  request.set_status(status);
  return request;
}

TEST(P2pSourcesTest, WhatWasPublishedIsFetchedAsItWas) {
  ModelExpressSources sources{ModelExpressLimits{}};
  auto request = Publication("m", "w", 3);
  mx::WorkerMetadata& worker = *request.mutable_worker();
  worker.set_nixl_metadata(std::string("\0\xff agent", 8));
  worker.set_agent_name("agent");
  (*worker.mutable_topology())["rack"] = "r7";
  mx::TensorDescriptor& tensor = *worker.mutable_tensor_source()->add_tensors();
  tensor.set_name("embed");
  tensor.set_addr(std::numeric_limits<uint64_t>::max());
  tensor.set_size(12);
  tensor.set_dtype("torch.bfloat16");
  *worker.add_tensors() = tensor;
  const auto id = sources.Publish(request, 1000);
  ASSERT_TRUE(id.ok()) << id.status();

  mx::GetMetadataRequest get;
  get.set_mx_source_id(*id);
  get.set_worker_id("w");
  const auto got = sources.Get(get, 1000);
  ASSERT_TRUE(got.found());
  worker.set_updated_at(1000);
  EXPECT_EQ(got.worker().ShortDebugString(), worker.ShortDebugString());
  EXPECT_EQ(got.identity().model_name(), "m");
  get.set_worker_id("x");
  EXPECT_FALSE(sources.Get(get, 1000).found());
}

TEST(P2pSourcesTest, TheLowestRankOfAWorkerIsFetched) {
  ModelExpressSources sources{ModelExpressLimits{}};
  for (const uint32_t rank : {4000000000u, 2u, 10u}) {
    ASSERT_TRUE(sources.Publish(Publication("m", "w", rank), 1).ok());
  }
  mx::GetMetadataRequest get;
  get.set_mx_source_id(*sources.Publish(Publication("m", "w", 10), 1));
  get.set_worker_id("w");
  EXPECT_EQ(sources.Get(get, 1).worker().worker_rank(), 2u);
  EXPECT_EQ(sources.count(), 3);
}

TEST(P2pSourcesTest, ASourceThatSaysNothingIsStaleThenForgotten) {
  ModelExpressSources sources{ModelExpressLimits{}};
  auto request = Publication("m", "w", 0);
  // A clock of a client that is far ahead keeps nothing alive.
  request.mutable_worker()->set_updated_at(int64_t{1} << 60);
  const std::string id = *sources.Publish(request, 0);
  mx::ListSourcesRequest ready;
  ready.set_status_filter(mx::SOURCE_STATUS_READY);
  EXPECT_EQ(ListedWorkers(sources, ready, 89'999).size(), 1u);
  EXPECT_EQ(ListedWorkers(sources, ready, 90'000).size(), 0u);
  EXPECT_EQ(ListedWorkers(sources, {}, 90'000 + 3'599'999).size(), 1u);
  EXPECT_EQ(ListedWorkers(sources, {}, 90'000 + 3'600'000).size(), 0u);
  EXPECT_EQ(sources.count(), 0);
  EXPECT_EQ(sources.held_bytes(), 0);
  const auto late = Heartbeat(id, "w", 0, mx::SOURCE_STATUS_READY);
  EXPECT_EQ(sources.UpdateStatus(late, 4'000'000).code(),
            absl::StatusCode::kNotFound);
}

TEST(P2pSourcesTest, AnUnknownStatusDoesNotLiveForEver) {
  ModelExpressSources sources{ModelExpressLimits{}};
  ASSERT_TRUE(
      sources.Publish(Publication("m", "w", 0, mx::SOURCE_STATUS_UNKNOWN), 0)
          .ok());
  EXPECT_EQ(ListedWorkers(sources, {}, 3'599'999).size(), 1u);
  EXPECT_EQ(ListedWorkers(sources, {}, 3'600'000).size(), 0u);
}

// ModelExpress cuts the list before it looks who lives: a client that asks for
// one READY source may be told of none.
TEST(P2pSourcesTest, TheLimitCountsOnlyWhatPassesTheFilters) {
  ModelExpressSources sources{ModelExpressLimits{}};
  ASSERT_TRUE(sources.Publish(Publication("m", "ready", 0), 0).ok());
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(sources
                    .Publish(Publication("m", "stale" + std::to_string(i), 0,
                                         mx::SOURCE_STATUS_STALE),
                             10)
                    .ok());
  }
  mx::ListSourcesRequest filter;
  filter.set_status_filter(mx::SOURCE_STATUS_READY);
  filter.set_limit(1);
  EXPECT_EQ(ListedWorkers(sources, filter, 10),
            std::vector<std::string>{"ready"});
  filter.set_limit(0);
  EXPECT_TRUE(ListedWorkers(sources, filter, 10).empty());
}

TEST(P2pSourcesTest, FiltersAndRows) {
  ModelExpressSources sources{ModelExpressLimits{}};
  auto old = Publication("m", "old", 0);
  (*old.mutable_identity()->mutable_extra_parameters())["training_step"] = "4";
  auto fresh = Publication("m", "fresh", 1);
  auto& extra = *fresh.mutable_identity()->mutable_extra_parameters();
  extra["version"] = "18446744073709551615";
  extra["layout_signature"] = "tp=2";
  auto other = Publication("n", "other", 1);
  (*other.mutable_identity()->mutable_extra_parameters())["version"] = "-1";
  ASSERT_TRUE(sources.Publish(old, 1).ok());
  ASSERT_TRUE(sources.Publish(fresh, 2).ok());
  ASSERT_TRUE(sources.Publish(other, 3).ok());
  using Names = std::vector<std::string>;
  mx::ListSourcesRequest filter;
  EXPECT_EQ(ListedWorkers(sources, filter, 3),
            (Names{"other", "fresh", "old"}));
  filter.set_model_name_filter("m");
  EXPECT_EQ(ListedWorkers(sources, filter, 3), (Names{"fresh", "old"}));
  filter.set_worker_rank_filter(0);
  EXPECT_EQ(ListedWorkers(sources, filter, 3), (Names{"old"}));
  filter.Clear();
  filter.set_min_training_step(5);
  EXPECT_EQ(ListedWorkers(sources, filter, 3), (Names{"fresh"}));
  filter.Clear();
  filter.set_min_updated_at(2);
  EXPECT_EQ(ListedWorkers(sources, filter, 3), (Names{"other", "fresh"}));
  filter.Clear();
  *filter.mutable_identity() = fresh.identity();
  const auto rows = sources.List(filter, 3);
  ASSERT_EQ(rows->instances_size(), 1);
  EXPECT_EQ(rows->instances(0).layout_signature(), "tp=2");
  EXPECT_EQ(rows->instances(0).training_step(), ~uint64_t{0});
  EXPECT_FALSE(rows->instances(0).has_source_load());
}

TEST(P2pSourcesTest, EveryFaultOfAPublicationIsNamed) {
  ModelExpressSources sources{ModelExpressLimits{}};
  EXPECT_EQ(sources.Publish({}, 0).status().message(),
            "identity is required; worker is required; worker_id is required");
  auto bad = Publication(" \t", std::string(2000, 'w'), 0,
                         static_cast<mx::SourceStatus>(9));
  bad.mutable_worker()->set_agent_name("a\nb");
  EXPECT_EQ(sources.Publish(bad, 0).status().message(),
            "identity.model_name is required; worker.status 9 is unknown; "
            "worker.agent_name \"a?b\" holds a control character; worker_id "
            "has 2000 bytes, more than 1024");
  auto huge = Publication("m", "w", 0);
  (*huge.mutable_identity()->mutable_extra_parameters())["k"] =
      std::string(70'000, 'v');
  (*huge.mutable_worker()->mutable_topology())["rack"] =
      std::string(20'000, 'v');
  EXPECT_EQ(sources.Publish(huge, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(sources.count(), 0);
}

TEST(P2pSourcesTest, NumberAndBytesOfSourcesAreBounded) {
  ModelExpressLimits limits;
  limits.max_sources = 2;
  limits.max_source_bytes = 1000;
  limits.max_reply_bytes = 40;
  ModelExpressSources sources{limits};
  auto request = Publication("m", "a", 0);
  ASSERT_TRUE(sources.Publish(request, 0).ok());
  EXPECT_TRUE(sources.List({}, 0).ok());
  ASSERT_TRUE(sources.Publish(Publication("m", "b", 0), 0).ok());
  EXPECT_EQ(sources.Publish(Publication("m", "c", 0), 0).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(sources.List({}, 0).status().code(),
            absl::StatusCode::kResourceExhausted);
  // To replace one is fine, unless it grows too much.
  ASSERT_TRUE(sources.Publish(request, 0).ok());
  request.mutable_worker()->set_nixl_metadata(std::string(950, 'x'));
  EXPECT_EQ(sources.Publish(request, 0).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(sources.count(), 2);
}

// A walk against the rules written plainly: a list of records, looked through
// at every step.
struct PlainRecord {
  std::string worker;
  uint32_t rank = 0;
  mx::SourceStatus status = mx::SOURCE_STATUS_UNKNOWN;
  int64_t updated_ms = 0;
};

void Age(std::vector<PlainRecord>& records, int64_t now_ms) {
  for (PlainRecord& each : records) {
    const bool lives = each.status == mx::SOURCE_STATUS_READY ||
                       each.status == mx::SOURCE_STATUS_INITIALIZING;
    if (lives && now_ms - each.updated_ms >= 90'000) {
      each.status = mx::SOURCE_STATUS_STALE;
      each.updated_ms += 90'000;
    }
  }
  std::erase_if(records, [now_ms](const PlainRecord& each) {
    return (each.status == mx::SOURCE_STATUS_STALE ||
            each.status == mx::SOURCE_STATUS_UNKNOWN) &&
           now_ms - each.updated_ms >= 3'600'000;
  });
}

TEST(P2pSourcesTest, RandomWalkAgainstAPlainList) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  ModelExpressSources sources{ModelExpressLimits{}};
  std::vector<PlainRecord> plain;
  std::string source_id;
  int64_t now_ms = 1'000'000;
  for (int i = 0; i < 20'000; ++i) {
    now_ms += random() % 8 == 0 ? static_cast<int64_t>(random() % 2'000'000)
                                : static_cast<int64_t>(random() % 20'000);
    Age(plain, now_ms);
    const std::string worker(1, static_cast<char>('a' + random() % 4));
    const auto rank = static_cast<uint32_t>(random() % 3);
    const auto status = static_cast<mx::SourceStatus>(random() % 4);
    const auto there =
        std::find_if(plain.begin(), plain.end(), [&](const PlainRecord& each) {
          return each.worker == worker && each.rank == rank;
        });
    if (random() % 2 == 0) {
      source_id =
          *sources.Publish(Publication("m", worker, rank, status), now_ms);
      if (there != plain.end()) plain.erase(there);
      plain.push_back({worker, rank, status, now_ms});
    } else {
      const auto got = sources.UpdateStatus(
          Heartbeat(source_id, worker, rank, status), now_ms);
      EXPECT_EQ(got.ok(), there != plain.end()) << got;
      if (there != plain.end()) {
        there->status = status;
        there->updated_ms = now_ms;
      }
    }
    mx::ListSourcesRequest filter;
    const auto wanted = static_cast<mx::SourceStatus>(random() % 4);
    if (random() % 2 == 0) filter.set_status_filter(wanted);
    std::vector<std::tuple<int64_t, std::string, uint32_t>> expected, actual;
    for (const PlainRecord& each : plain) {
      if (!filter.has_status_filter() || each.status == wanted) {
        expected.emplace_back(-each.updated_ms, each.worker, each.rank);
      }
    }
    std::sort(expected.begin(), expected.end());
    const auto listed = sources.List(filter, now_ms);
    ASSERT_TRUE(listed.ok()) << listed.status();
    for (const auto& row : listed->instances()) {
      actual.emplace_back(-row.updated_at(), row.worker_id(),
                          row.worker_rank());
    }
    ASSERT_EQ(actual, expected) << "step " << i;
  }
}

}  // namespace
}  // namespace weft::catalog
