#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "weft/catalog/modelexpress/refit_versions_internal.h"

namespace weft::catalog {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

mxr::CreateWeightVersionRequest Request(const std::string& key,
                                        const std::vector<std::string>& slots) {
  mxr::CreateWeightVersionRequest request;
  request.set_model_name("m");
  request.set_idempotency_key(key);
  request.set_payload_format(mxr::WEIGHT_PAYLOAD_FORMAT_FULL_TENSOR);
  request.set_state(mxr::WEIGHT_VERSION_STATE_STAGING);
  *request.mutable_expected_source_slots() = {slots.begin(), slots.end()};
  return request;
}

mxr::WeightVersionShard Shard(const std::string& uid, const std::string& slot,
                              const std::string& worker) {
  mxr::WeightVersionShard shard;
  shard.set_version_id(uid);
  shard.set_source_slot_id(slot);
  shard.set_worker_id(worker);
  shard.set_manifest_digest("d");
  shard.set_manifest_endpoint("host:1");
  return shard;
}

class RefitVersionsTest : public testing::Test {
 protected:
  void Register(const std::string& worker, mxr::WorkerRole role,
                uint32_t ttl_seconds, const std::string& model = "m") {
    mxr::RegisterWorkerRequest request;
    request.mutable_worker()->set_worker_id(worker);
    request.mutable_worker()->set_model_name(model);
    request.mutable_worker()->set_role(role);
    request.set_ttl_seconds(ttl_seconds);
    const auto got = versions_.RegisterWorker(request, now_ms_);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->expires_at_unix_ms(), now_ms_ + ttl_seconds * 1000);
  }
  void Trainer(const std::string& worker, uint32_t ttl_seconds = 90) {
    Register(worker, mxr::WORKER_ROLE_TRAINER, ttl_seconds);
  }
  void Generator(const std::string& worker, uint32_t ttl_seconds = 90) {
    Register(worker, mxr::WORKER_ROLE_GENERATOR, ttl_seconds);
  }
  StatusCode Publish(const std::string& uid, const std::string& slot,
                     const std::string& worker) {
    return versions_.CreateShard(Shard(uid, slot, worker), now_ms_)
        .status()
        .code();
  }
  std::string Create(const std::string& key,
                     const std::vector<std::string>& slots) {
    const auto made = versions_.Create(Request(key, slots), now_ms_);
    EXPECT_TRUE(made.ok()) << made.status();
    return made->uid();
  }
  mxr::WeightVersionState State(const std::string& uid) {
    const auto got = versions_.Get(uid, now_ms_);
    return got.ok() ? got->state() : mxr::WEIGHT_VERSION_STATE_UNSPECIFIED;
  }
  StatusCode SetState(const std::string& uid, mxr::WeightVersionState state) {
    return versions_.SetState(uid, state, now_ms_).status().code();
  }
  StatusCode Lease(const std::string& uid, const std::string& worker,
                   uint32_t ttl_seconds = 90) {
    mxr::RegisterVersionLeaseRequest request;
    request.set_version_id(uid);
    request.set_worker_id(worker);
    request.set_ttl_seconds(ttl_seconds);
    return versions_.Lease(request, now_ms_).status().code();
  }
  StatusCode DeleteShard(const std::string& uid, const std::string& slot,
                         const std::string& worker) {
    mxr::DeleteWeightVersionShardRequest request;
    request.set_version_id(uid);
    request.set_source_slot_id(slot);
    request.set_worker_id(worker);
    return versions_.DeleteShard(request, now_ms_).code();
  }

  static constexpr auto kStaging = mxr::WEIGHT_VERSION_STATE_STAGING;
  static constexpr auto kReady = mxr::WEIGHT_VERSION_STATE_READY;
  static constexpr auto kReleasing = mxr::WEIGHT_VERSION_STATE_RELEASING;
  static constexpr auto kGone = mxr::WEIGHT_VERSION_STATE_UNSPECIFIED;

  int64_t now_ms_ = 1'000'000;
  int uids_ = 0;
  std::vector<std::string> notes_;
  ModelExpressVersions versions_{
      ModelExpressLimits{}, [this] { return "u" + std::to_string(++uids_); },
      [this](const std::string& note) { notes_.push_back(note); }};
};

TEST_F(RefitVersionsTest, AVersionLivesFromItsCreationToItsRelease) {
  Trainer("t0");
  Trainer("t1");
  Generator("g");
  const std::string uid = Create("k", {"b", "a"});
  EXPECT_EQ(Publish(uid, "b", "t0"), StatusCode::kOk);
  EXPECT_EQ(State(uid), kStaging);
  EXPECT_EQ(Lease(uid, "g"), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Publish(uid, "a", "t1"), StatusCode::kOk);
  EXPECT_EQ(State(uid), kReady);
  // The same again, and a second source of a slot, after READY too.
  EXPECT_EQ(Publish(uid, "a", "t1"), StatusCode::kOk);
  EXPECT_EQ(Publish(uid, "a", "t0"), StatusCode::kOk);
  const auto shards = versions_.ListShards(uid, now_ms_);
  std::vector<std::string> order;
  for (const auto& each : shards->shards()) {
    order.push_back(each.source_slot_id() + each.worker_id());
  }
  EXPECT_THAT(order, ElementsAre("at0", "at1", "bt0"));

  EXPECT_EQ(Lease(uid, "g"), StatusCode::kOk);
  EXPECT_EQ(DeleteShard(uid, "a", "t1"), StatusCode::kFailedPrecondition);
  EXPECT_EQ(SetState(uid, kReleasing), StatusCode::kOk);
  EXPECT_EQ(SetState(uid, kReleasing), StatusCode::kOk);
  EXPECT_EQ(Lease(uid, "g"), StatusCode::kOk) << "a lease may be renewed";
  EXPECT_EQ(DeleteShard(uid, "a", "t1"), StatusCode::kFailedPrecondition);
  mxr::DeleteVersionLeaseRequest end;
  end.set_version_id(uid);
  end.set_lease_id(ModelExpressLeaseId(uid, "g"));
  end.set_worker_id("t0");
  EXPECT_EQ(versions_.DeleteLease(end, now_ms_).status().code(),
            StatusCode::kFailedPrecondition);
  end.set_worker_id("g");
  EXPECT_TRUE(*versions_.DeleteLease(end, now_ms_));
  EXPECT_FALSE(*versions_.DeleteLease(end, now_ms_));
  EXPECT_EQ(Lease(uid, "g"), StatusCode::kFailedPrecondition);
  EXPECT_EQ(DeleteShard(uid, "a", "t1"), StatusCode::kOk);
  EXPECT_EQ(DeleteShard(uid, "a", "t1"), StatusCode::kNotFound);
  EXPECT_TRUE(notes_.empty());
}

TEST(ModelExpressLeaseIdTest, IsTheirs) {
  EXPECT_EQ(ModelExpressLeaseId("abcd1234", "worker01"), "04aa3be8");
}

TEST_F(RefitVersionsTest, TheSameRequestAgainIsTheSameVersion) {
  const std::string uid = Create("k", {"a", "b"});
  EXPECT_EQ(Create("k", {"a", "b"}), uid);
  ASSERT_EQ(SetState(uid, kReleasing), StatusCode::kOk);
  EXPECT_EQ(versions_.Create(Request("k", {"a", "b"}), now_ms_)->state(),
            kReleasing);
  const auto code = [this](const mxr::CreateWeightVersionRequest& request) {
    return versions_.Create(request, now_ms_).status().code();
  };
  EXPECT_EQ(code(Request("k", {"b", "a"})), StatusCode::kAlreadyExists);
  EXPECT_EQ(code(Request("k", {"a"})), StatusCode::kAlreadyExists);
  auto named = Request("k", {"a", "b"});
  named.set_uid("other");
  EXPECT_EQ(code(named), StatusCode::kAlreadyExists);
  named.set_uid(uid);
  EXPECT_EQ(code(named), StatusCode::kOk);
  named.set_idempotency_key("k2");
  EXPECT_EQ(code(named), StatusCode::kAlreadyExists) << "the uid is taken";
  auto elsewhere = Request("k", {"b"});
  elsewhere.set_model_name("n");
  EXPECT_EQ(code(elsewhere), StatusCode::kOk) << "keys are those of a model";
}

TEST_F(RefitVersionsTest, AVersionInObjectStorageNeedsNoShards) {
  auto request = Request("k", {});
  request.set_payload_format(mxr::WEIGHT_PAYLOAD_FORMAT_FULL_HF_CHECKPOINT);
  request.mutable_object_storage()->set_uri("s3://bucket/run/v1");
  request.mutable_object_storage()->set_storage_type(
      mxr::OBJECT_STORAGE_TYPE_S3);
  const std::string uid = versions_.Create(request, now_ms_)->uid();
  EXPECT_EQ(State(uid), kStaging);
  EXPECT_EQ(SetState(uid, kReady), StatusCode::kOk);
  EXPECT_EQ(SetState(uid, kStaging), StatusCode::kFailedPrecondition);
  // A delta on it.
  auto delta = request;
  delta.set_idempotency_key("k2");
  delta.set_state(kReady);
  delta.set_payload_format(mxr::WEIGHT_PAYLOAD_FORMAT_XOR_DELTA);
  delta.set_base_version_id(uid);
  EXPECT_EQ(versions_.Create(delta, now_ms_)->state(), kReady);
  delta.set_idempotency_key("k3");
  delta.set_base_version_id("unknown");
  EXPECT_EQ(versions_.Create(delta, now_ms_).status().code(),
            StatusCode::kNotFound);
  ASSERT_EQ(SetState(uid, kReleasing), StatusCode::kOk);
  delta.set_base_version_id(uid);
  EXPECT_EQ(versions_.Create(delta, now_ms_).status().code(),
            StatusCode::kFailedPrecondition);
}

TEST_F(RefitVersionsTest, OnlyObjectStorageIsMadeReadyByHand) {
  const std::string uid = Create("k", {"a"});
  EXPECT_EQ(SetState(uid, kReady), StatusCode::kFailedPrecondition);
  EXPECT_EQ(SetState(uid, kStaging), StatusCode::kOk);
  EXPECT_EQ(SetState(uid, kGone), StatusCode::kInvalidArgument);
  EXPECT_EQ(SetState("unknown", kReady), StatusCode::kNotFound);
  EXPECT_EQ(SetState(" ", kReady), StatusCode::kInvalidArgument);
  EXPECT_EQ(versions_.ListShards("", now_ms_).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(SetState(uid, kReleasing), StatusCode::kOk) << "it is cancelled";
  Trainer("t");
  EXPECT_EQ(Publish(uid, "a", "t"), StatusCode::kFailedPrecondition);
}

TEST_F(RefitVersionsTest, EveryFaultOfARequestIsNamed) {
  mxr::CreateWeightVersionRequest empty;
  EXPECT_EQ(versions_.Create(empty, 0).status().message(),
            "model_name is required; idempotency_key is required; "
            "payload_format 0 is unknown; state 0 is not STAGING (1), where a "
            "version of workers begins; expected_source_slots has 0 entries, "
            "not between 1 and 16384");
  EXPECT_THAT(std::string(versions_.Create(Request("k", {"a", " ", "a"}), 0)
                              .status()
                              .message()),
              testing::AllOf(HasSubstr("entry of expected_source_slots is "
                                       "required"),
                             HasSubstr("has \"a\" twice")));
  EXPECT_EQ(
      versions_.Create(Request("k", std::vector<std::string>(20'000, "s")), 0)
          .status()
          .code(),
      StatusCode::kInvalidArgument);
  for (const char* uri :
       {"", "s3://", "s3://b", "s3:///k", "s3://b/", "s3://b//k", "gs://b/k",
        "s3://b/k?x", "s3://b/k#x"}) {
    auto stored = Request("k", {});
    stored.mutable_object_storage()->set_uri(uri);
    stored.mutable_object_storage()->set_storage_type(
        mxr::OBJECT_STORAGE_TYPE_S3);
    EXPECT_EQ(versions_.Create(stored, 0).status().code(),
              StatusCode::kInvalidArgument)
        << uri;
  }
  mxr::RegisterWorkerRequest worker;
  worker.set_ttl_seconds(100'000);
  EXPECT_EQ(versions_.RegisterWorker(worker, 0).status().message(),
            "worker.worker_id is required; worker.model_name is required; "
            "worker.role 0 is not TRAINER (1) or GENERATOR (2); ttl_seconds "
            "100000 is not between 1 and 86400");
  EXPECT_EQ(versions_.count(), 0);
}

TEST_F(RefitVersionsTest, WhoMayPublishAndLease) {
  Trainer("t");
  Generator("g");
  Register("foreign", mxr::WORKER_ROLE_TRAINER, 90, "n");
  const std::string uid = Create("k", {"a"});
  EXPECT_EQ(Publish("unknown", "a", "t"), StatusCode::kNotFound);
  EXPECT_EQ(Publish(uid, "x", "t"), StatusCode::kInvalidArgument);
  EXPECT_EQ(Publish(uid, "a", "nobody"), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Publish(uid, "a", "foreign"), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Publish(uid, "a", "t"), StatusCode::kOk);
  auto changed = Shard(uid, "a", "t");
  changed.set_total_bytes(1);
  EXPECT_EQ(versions_.CreateShard(changed, now_ms_).status().code(),
            StatusCode::kAlreadyExists);
  EXPECT_EQ(Lease("unknown", "g"), StatusCode::kNotFound);
  EXPECT_EQ(Lease(uid, "t"), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Lease(uid, "nobody"), StatusCode::kFailedPrecondition);
  EXPECT_EQ(Lease(uid, "g", 0), StatusCode::kInvalidArgument);
  EXPECT_EQ(Lease(uid, "g"), StatusCode::kOk);
}

// With ModelExpress's own server the version stays READY for ever, and
// receivers are sent to a trainer that is dead.
TEST_F(RefitVersionsTest, ReadyIsWithdrawnWithTheLastSourceOfASlot) {
  Trainer("t0", 10);
  Trainer("t1", 20);
  const std::string uid = Create("k", {"a"});
  ASSERT_EQ(Publish(uid, "a", "t0"), StatusCode::kOk);
  ASSERT_EQ(Publish(uid, "a", "t1"), StatusCode::kOk);
  now_ms_ += 10'000;
  EXPECT_EQ(State(uid), kReady);
  EXPECT_EQ(versions_.ListShards(uid, now_ms_)->shards_size(), 1);
  now_ms_ += 10'000;
  EXPECT_EQ(State(uid), kReleasing);
  EXPECT_EQ(versions_.ListShards(uid, now_ms_)->shards_size(), 0);
  EXPECT_THAT(notes_, ElementsAre(HasSubstr(
                          "\"u1\" of model \"m\" is RELEASING: worker \"t1\", "
                          "the last source of slot \"a\"")));
  // The trainer that was only slow can still give its memory back.
  Trainer("t1");
  EXPECT_EQ(DeleteShard(uid, "a", "t1"), StatusCode::kOk);
}

TEST_F(RefitVersionsTest, ADeadTrainerDoesNotMakeAVersionReady) {
  Trainer("t0", 10);
  const std::string uid = Create("k", {"a", "b"});
  ASSERT_EQ(Publish(uid, "a", "t0"), StatusCode::kOk);
  now_ms_ += 10'000;
  Trainer("t1");
  ASSERT_EQ(Publish(uid, "b", "t1"), StatusCode::kOk);
  EXPECT_EQ(State(uid), kStaging);
  ASSERT_EQ(Publish(uid, "a", "t1"), StatusCode::kOk);
  EXPECT_EQ(State(uid), kReady);
}

TEST_F(RefitVersionsTest, NothingIsKeptForEver) {
  const std::string stuck = Create("k", {"a"});
  now_ms_ += 3'600'000;
  EXPECT_EQ(State(stuck), kReleasing);
  EXPECT_THAT(notes_, ElementsAre(HasSubstr("slot \"a\" is missing")));
  now_ms_ += 3'600'000;
  EXPECT_EQ(State(stuck), kGone);
  EXPECT_EQ(versions_.held_bytes(), 0);
  EXPECT_NE(Create("k", {"a"}), stuck);
}

TEST_F(RefitVersionsTest, AVersionIsKeptWhileItIsLeased) {
  Trainer("t", 86'400);
  Generator("g", 86'400);
  const std::string uid = Create("k", {"a"});
  ASSERT_EQ(Publish(uid, "a", "t"), StatusCode::kOk);
  ASSERT_EQ(Lease(uid, "g", 10'000), StatusCode::kOk);
  ASSERT_EQ(SetState(uid, kReleasing), StatusCode::kOk);
  now_ms_ += 9'999'999;
  EXPECT_EQ(DeleteShard(uid, "a", "t"), StatusCode::kFailedPrecondition);
  now_ms_ += 3'600'000;
  EXPECT_EQ(State(uid), kReleasing);
  now_ms_ += 1;
  EXPECT_EQ(State(uid), kGone);
  EXPECT_EQ(versions_.held_bytes(), 0);
}

TEST_F(RefitVersionsTest, MemoryIsFlatOverManyVersions) {
  Trainer("t", 86'400);
  for (int i = 0; i < 20'000; ++i) {
    const std::string uid = Create(std::to_string(i), {"a"});
    ASSERT_EQ(Publish(uid, "a", "t"), StatusCode::kOk);
    ASSERT_EQ(SetState(uid, kReleasing), StatusCode::kOk);
    now_ms_ += 3000;
  }
  EXPECT_LE(versions_.count(), 3'600'000 / 3000 + 1);
  EXPECT_LT(versions_.held_bytes(), 200'000);
}

TEST(RefitLimitsTest, NumbersAreBounded) {
  ModelExpressLimits limits;
  limits.max_versions = 1;
  limits.max_workers = 1;
  limits.max_shards = 0;
  ModelExpressVersions versions(limits, [] { return "same"; });
  ASSERT_TRUE(versions.Create(Request("k", {"a"}), 0).ok());
  EXPECT_EQ(versions.Create(Request("k2", {"a"}), 0).status().code(),
            StatusCode::kResourceExhausted);
  mxr::RegisterWorkerRequest worker;
  worker.mutable_worker()->set_worker_id("t");
  worker.mutable_worker()->set_model_name("m");
  worker.mutable_worker()->set_role(mxr::WORKER_ROLE_TRAINER);
  worker.set_ttl_seconds(1);
  ASSERT_TRUE(versions.RegisterWorker(worker, 0).ok());
  EXPECT_EQ(versions.CreateShard(Shard("same", "a", "t"), 0).status().code(),
            StatusCode::kResourceExhausted);
  worker.mutable_worker()->set_worker_id("t2");
  EXPECT_EQ(versions.RegisterWorker(worker, 0).status().code(),
            StatusCode::kResourceExhausted);

  limits.max_versions = 10;
  ModelExpressVersions colliding(limits, [] { return "same"; });
  ASSERT_TRUE(colliding.Create(Request("k", {"a"}), 0).ok());
  EXPECT_EQ(colliding.Create(Request("k2", {"a"}), 0).status().code(),
            StatusCode::kResourceExhausted);
  limits.max_version_bytes = 10;
  ModelExpressVersions small(limits, [] { return "u"; });
  EXPECT_EQ(small.Create(Request("k", {"a"}), 0).status().code(),
            StatusCode::kResourceExhausted);
}

// A walk against the rules written plainly: everything that ever happened stays
// in lists, and what is live is worked out from the times in them.
struct Plain {
  struct Worker {
    bool trainer = true;
    int64_t expires_ms = 0;
  };
  struct Version {
    mxr::WeightVersionState state = mxr::WEIGHT_VERSION_STATE_STAGING;
    std::map<std::pair<std::string, std::string>, bool> shards;
    std::map<std::string, int64_t> leases;  // until when, by worker
  };
  std::map<std::string, Worker> workers;
  std::vector<Version> versions;

  bool Alive(const std::string& worker, int64_t now_ms) const {
    const auto found = workers.find(worker);
    return found != workers.end() && found->second.expires_ms > now_ms;
  }
  bool Covered(const Version& version, int64_t now_ms) const {
    return std::ranges::all_of(
        std::vector<std::string>{"a", "b"}, [&](const std::string& slot) {
          return std::ranges::any_of(version.shards, [&](const auto& shard) {
            return shard.first.first == slot &&
                   Alive(shard.first.second, now_ms);
          });
        });
  }
  bool Leased(const Version& version, int64_t now_ms) const {
    return std::ranges::any_of(version.leases, [now_ms](const auto& lease) {
      return lease.second > now_ms;
    });
  }
  // Second by second, as every time of the walk is whole seconds.
  void Tick(int64_t now_ms) {
    for (Version& each : versions) {
      if (each.state == mxr::WEIGHT_VERSION_STATE_READY &&
          !Covered(each, now_ms)) {
        each.state = mxr::WEIGHT_VERSION_STATE_RELEASING;
      }
    }
  }
};

TEST_F(RefitVersionsTest, RandomWalkAgainstPlainLists) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  Plain plain;
  std::vector<std::string> uids;
  // Shorter than the hour after which an idle version goes.
  for (int i = 0; i < 3000; ++i) {
    if (random() % 3 == 0) {
      now_ms_ += 1000;
      plain.Tick(now_ms_);
    }
    if (i % 100 == 0) {
      uids.push_back(Create(std::to_string(i), {"a", "b"}));
      plain.versions.emplace_back();
    }
    const size_t at =
        uids.size() - 1 - random() % std::min<size_t>(uids.size(), 3);
    Plain::Version& version = plain.versions[at];
    const std::string slot(1, "ab"[random() % 2]);
    const std::string worker(1, "tuvgh"[random() % 5]);
    const bool trainer = worker > "s";
    const bool alive = plain.Alive(worker, now_ms_);
    const auto ttl = static_cast<uint32_t>(1 + random() % 20);
    StatusCode expected = StatusCode::kOk, actual = StatusCode::kOk;
    switch (random() % 6) {
      case 0:
        if (trainer) {
          Trainer(worker, ttl);
        } else {
          Generator(worker, ttl);
        }
        plain.workers[worker] = {trainer, now_ms_ + ttl * 1000};
        break;
      case 1:
      case 2:
        actual = Publish(uids[at], slot, worker);
        if (!alive || version.state == kReleasing) {
          expected = StatusCode::kFailedPrecondition;
        } else {
          version.shards[{slot, worker}] = true;
          if (version.state == kStaging && plain.Covered(version, now_ms_)) {
            version.state = kReady;
          }
        }
        break;
      case 3: {
        actual = Lease(uids[at], worker, ttl);
        const bool held = version.leases.count(worker) > 0 &&
                          version.leases[worker] > now_ms_;
        if (!alive || trainer || (!held && version.state != kReady)) {
          expected = StatusCode::kFailedPrecondition;
        } else {
          version.leases[worker] = now_ms_ + ttl * 1000;
        }
        break;
      }
      case 4:
        if (random() % 4 == 0) {
          actual = SetState(uids[at], kReleasing);
          version.state = kReleasing;
        }
        break;
      default:
        actual = DeleteShard(uids[at], slot, worker);
        if (version.shards.count({slot, worker}) == 0) {
          expected = StatusCode::kNotFound;
        } else if (!alive || version.state != kReleasing ||
                   plain.Leased(version, now_ms_)) {
          expected = StatusCode::kFailedPrecondition;
        } else {
          version.shards.erase({slot, worker});
        }
    }
    ASSERT_EQ(actual, expected) << "step " << i;
    ASSERT_EQ(State(uids[at]), version.state) << "step " << i;
    const auto listed = versions_.ListShards(uids[at], now_ms_);
    const auto live =
        std::ranges::count_if(version.shards, [&](const auto& shard) {
          return plain.Alive(shard.first.second, now_ms_);
        });
    ASSERT_EQ(listed->shards_size(), live) << "step " << i;
  }
}

}  // namespace
}  // namespace weft::catalog
