// A random walk of the store beside the obvious catalog.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/obvious_catalog.h"

namespace weft::catalog::testing {
namespace {

// Workers and leases have the same index here and in the oracle.
class Walk {
 public:
  Walk(CatalogStore& first, CatalogStore& second, uint64_t seed)
      : first_(first), second_(second), random_(seed) {}

  void Step();
  void CompareAll();
  const ObviousCatalog& oracle() const { return oracle_; }

 private:
  uint64_t Pick(uint64_t count) {
    return std::uniform_int_distribution<uint64_t>(0, count - 1)(random_);
  }
  CatalogStore& Any() { return Pick(2) == 0 ? first_ : second_; }
  // Mostly an attached one of that role, else any of the newest.
  std::optional<size_t> PickWorker(Role role);

  void Register();
  void Attach();
  void Die();
  void Publish(size_t worker, uint64_t step);
  void PublishOne();
  void PublishAll();
  void Update();
  void Acquire();
  void Release();
  void CompareVersions();
  void CompareWorkers();
  void CompareSources();

  CatalogStore& first_;
  CatalogStore& second_;
  std::mt19937_64 random_;
  ObviousCatalog oracle_;
  std::vector<std::string> worker_ids_;
  std::vector<std::unique_ptr<Attachment>> attachments_;
  std::vector<std::string> lease_ids_;
  uint64_t step_ = 1;
  uint64_t epoch_ = 0;
};

std::optional<size_t> Walk::PickWorker(Role role) {
  std::vector<size_t> all;
  std::vector<size_t> attached;
  for (size_t i = 0; i < worker_ids_.size(); ++i) {
    const auto& worker = oracle_.workers()[i];
    // The old ones are dead, and a store may have forgotten them.
    if (i + 10 > worker_ids_.size()) all.push_back(i);
    if (worker.info.role == role &&
        worker.life == ObviousCatalog::Worker::kAttached) {
      attached.push_back(i);
    }
  }
  const auto& from = attached.empty() || Pick(4) == 0 ? all : attached;
  if (from.empty()) return std::nullopt;
  return from[Pick(from.size())];
}

void Walk::Register() {
  // Now and then a newer epoch, a late one of an older epoch, or run "b" for
  // once, after which "a" comes back.
  if (Pick(40) == 0) ++epoch_;
  const uint64_t epoch = epoch_ - (epoch_ > 0 && Pick(20) == 0 ? 1 : 0);
  const std::string run = Pick(60) == 0 ? "b" : "a";
  const int64_t num_ranks = Pick(10) == 0 ? 3 : 2;
  const auto rank = static_cast<int64_t>(Pick(num_ranks));
  WorkerInfo info = PublisherInfo(rank, num_ranks, epoch, run);
  if (Pick(2) == 0) info.shard_key = std::string(64, 'a');
  info.rejoins = Pick(3) == 0;
  if (Pick(4) == 0) info = ReceiverInfo(rank);
  if (Pick(5) == 0) {
    info = CopyInfo(rank, epoch, run);
    if (Pick(2) == 0) info.held_shards = {std::string(64, 'a')};
  }
  const auto registration = Any().Register(info, "", Soon());
  ASSERT_EQ(registration.status().code(), oracle_.Register(info))
      << registration.status();
  if (!registration.ok()) return;
  worker_ids_.push_back(registration->worker_id);
  attachments_.emplace_back();
  if (Pick(8) == 0) return;
  auto attachment = Any().Attach(worker_ids_.back(), Soon());
  ASSERT_EQ(attachment.status().code(), oracle_.Attach(worker_ids_.size() - 1));
  if (attachment.ok()) attachments_.back() = *std::move(attachment);
}

void Walk::Attach() {
  auto worker = PickWorker(Role::kPublisher);
  if (!worker) return;
  // One that waits for it, if there is one: it blocks its rank.
  for (size_t i = 0; i < worker_ids_.size(); ++i) {
    if (oracle_.workers()[i].life == ObviousCatalog::Worker::kRegistered &&
        Pick(4) != 0) {
      worker = i;
    }
  }
  auto attachment = Any().Attach(worker_ids_[*worker], Soon());
  ASSERT_EQ(attachment.status().code(), oracle_.Attach(*worker))
      << attachment.status();
  if (attachment.ok()) attachments_[*worker] = *std::move(attachment);
}

void Walk::Die() {
  static constexpr Role kRoles[] = {Role::kPublisher, Role::kReceiver,
                                    Role::kCopy};
  const auto worker = PickWorker(kRoles[Pick(3)]);
  if (!worker || attachments_[*worker] == nullptr) return;
  const bool lives =
      oracle_.workers()[*worker].life == ObviousCatalog::Worker::kAttached;
  ASSERT_EQ(
      attachments_[*worker]->Health().code(),
      lives ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition);
  attachments_[*worker].reset();
  oracle_.Die(*worker);
}

void Walk::Publish(size_t worker, uint64_t step) {
  const auto record = Any().PublishShard(worker_ids_[worker], step, Soon());
  ASSERT_EQ(record.status().code(), oracle_.Publish(worker, step))
      << record.status() << " step " << step;
}

void Walk::PublishOne() {
  const auto worker = PickWorker(Pick(2) == 0 ? Role::kPublisher : Role::kCopy);
  if (worker) Publish(*worker, step_ - std::min<uint64_t>(step_, Pick(3)));
}

void Walk::PublishAll() {
  ++step_;
  for (size_t i = 0; i < worker_ids_.size(); ++i) {
    const auto& worker = oracle_.workers()[i];
    if (worker.life == ObviousCatalog::Worker::kAttached &&
        worker.info.role == Role::kPublisher) {
      Publish(i, step_);
    }
  }
  for (size_t i = 0; i < worker_ids_.size(); ++i) {
    const auto& worker = oracle_.workers()[i];
    if (worker.life == ObviousCatalog::Worker::kAttached &&
        worker.info.role == Role::kCopy && Pick(2) == 0) {
      Publish(i, step_);
    }
  }
}

void Walk::Update() {
  const auto worker = PickWorker(Pick(3) != 0 ? Role::kPublisher : Role::kCopy);
  if (!worker) return;
  int64_t revoked = 0;
  const auto told = Any().BeginUpdate(worker_ids_[*worker], Passed());
  ASSERT_EQ(told.status().code(), oracle_.Update(*worker, revoked))
      << told.status();
  if (told.ok()) {
    ASSERT_EQ(*told, revoked);
  }
}

void Walk::Acquire() {
  const auto worker = PickWorker(Role::kReceiver);
  if (!worker || oracle_.versions().empty()) return;
  size_t version = Pick(oracle_.versions().size());
  // The one that is READY, if there is one, for most.
  for (size_t i = 0; i < oracle_.versions().size(); ++i) {
    if (oracle_.versions()[i].state == VersionState::kReady && Pick(4) != 0) {
      version = i;
    }
  }
  // A store may have forgotten what went long ago.
  if (version + 16 < oracle_.versions().size()) return;
  const VersionId id = oracle_.versions()[version].id;
  const auto lease = Any().AcquireLease(worker_ids_[*worker], id, Soon());
  ASSERT_EQ(lease.status().code(), oracle_.Acquire(*worker, id))
      << lease.status();
  if (lease.ok()) lease_ids_.push_back(lease->lease_id);
}

void Walk::Release() {
  if (lease_ids_.empty()) return;
  const size_t lease =
      lease_ids_.size() - 1 - Pick(std::min<size_t>(lease_ids_.size(), 6));
  const bool committed = Pick(2) == 0;
  const std::string reason = committed || Pick(2) == 0 ? "" : "torn";
  const absl::Status told =
      Any().ReleaseLease(lease_ids_[lease], committed, reason, Soon());
  ASSERT_EQ(told.code(), oracle_.Release(lease, committed, reason)) << told;
}

void Walk::Step() {
  using Move = void (Walk::*)();
  static constexpr std::pair<int, Move> kMoves[] = {
      {6, &Walk::Register},   {2, &Walk::Attach},     {3, &Walk::Die},
      {5, &Walk::PublishOne}, {8, &Walk::PublishAll}, {2, &Walk::Update},
      {8, &Walk::Acquire},    {6, &Walk::Release},    {4, &Walk::CompareAll},
  };
  int weights = 0;
  for (const auto& [weight, move] : kMoves) weights += weight;
  int picked = static_cast<int>(Pick(weights));
  for (const auto& [weight, move] : kMoves) {
    picked -= weight;
    if (picked < 0) return (this->*move)();
  }
}

void Walk::CompareAll() {
  CompareVersions();
  CompareWorkers();
  CompareSources();
}

// A store keeps the 16 versions that went last. Those that a takeover ends
// together go in any order, so up to three more may be the ones kept.
void Walk::CompareVersions() {
  const auto records = Any().ListVersions(kModel, Soon());
  ASSERT_EQ(records.status(), absl::OkStatus());
  std::map<VersionId, size_t> by_id;
  size_t gone = 0;
  for (size_t i = 0; i < oracle_.versions().size(); ++i) {
    by_id[oracle_.versions()[i].id] = i;
    if (oracle_.versions()[i].state == VersionState::kGone) ++gone;
  }
  ASSERT_EQ(records->size(), by_id.size() - gone + std::min<size_t>(gone, 16));
  ASSERT_TRUE(std::is_sorted(
      records->begin(), records->end(),
      [](const auto& a, const auto& b) { return a.version < b.version; }));
  for (const VersionRecord& record : *records) {
    SCOPED_TRACE(ToString(record.version));
    ASSERT_TRUE(by_id.contains(record.version));
    const size_t index = by_id[record.version];
    const auto& version = oracle_.versions()[index];
    ASSERT_EQ(record.state, version.state);
    ASSERT_EQ(record.ranks_published,
              static_cast<int64_t>(version.ranks.size()));
    ASSERT_EQ(record.ranks_expected, version.num_ranks);
    ASSERT_EQ(record.leases, oracle_.LeasesOf(index));
    if (record.state == VersionState::kGone) {
      ASSERT_GE(version.gone_at + 16 + 3, static_cast<int>(gone));
    }
  }
}

void Walk::CompareWorkers() {
  const auto records = Any().ListWorkers(kModel, Soon());
  ASSERT_EQ(records.status(), absl::OkStatus());
  std::map<std::string, WorkerRecord> by_id;
  size_t dead = 0;
  for (const WorkerRecord& record : *records) by_id[record.worker_id] = record;
  for (size_t i = 0; i < worker_ids_.size(); ++i) {
    const auto& worker = oracle_.workers()[i];
    const auto found = by_id.find(worker_ids_[i]);
    if (worker.life == ObviousCatalog::Worker::kDead) {
      dead += found != by_id.end() ? 1 : 0;
      if (found == by_id.end()) continue;
    }
    ASSERT_NE(found, by_id.end()) << worker_ids_[i];
    ASSERT_EQ(found->second.alive,
              worker.life == ObviousCatalog::Worker::kAttached);
    ASSERT_EQ(found->second.committed, worker.committed);
    const VersionId held = found->second.alive
                               ? oracle_.HeldBy(i).value_or(VersionId())
                               : VersionId();
    ASSERT_EQ(found->second.holds, held) << worker_ids_[i];
    ASSERT_EQ(found->second.fenced_reason, worker.fenced_reason);
    ASSERT_EQ(found->second.info.rank, worker.info.rank);
  }
  ASSERT_LE(dead, 64u);
}

void Walk::CompareSources() {
  const auto sources = Any().GetSources(kModel, Soon());
  const std::vector<size_t> expected = oracle_.Sources();
  if (expected.empty()) {
    ASSERT_EQ(sources.status().code(), absl::StatusCode::kNotFound);
    return;
  }
  ASSERT_EQ(sources.status(), absl::OkStatus());
  ASSERT_EQ(sources->sources.size(), expected.size());
  std::map<VersionId, std::vector<SourceRecord>> holders;
  for (size_t i = 0; i < expected.size(); ++i) {
    const SourceRecord& source = sources->sources[i];
    ASSERT_EQ(source.worker_id, worker_ids_[expected[i]]);
    ASSERT_EQ(source.holds, oracle_.HeldBy(expected[i]).value_or(VersionId()));
    holders[source.holds].push_back(source);
  }
  const auto records = Any().ListVersions(kModel, Soon());
  ASSERT_EQ(records.status(), absl::OkStatus());
  for (const VersionRecord& record : *records) {
    if (record.state != VersionState::kReady) continue;
    ASSERT_EQ(record.source_set, SourceSetOf(holders[record.version]));
  }
}

// A fixed seed can be given to repeat a walk.
uint64_t Seed() {
  const char* given = std::getenv("WEFT_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10)
                          : std::random_device()();
}

// States only go forward, and ranks only come.
void CheckForward(const VersionRecord& record,
                  std::map<VersionId, VersionRecord>& last) {
  const auto found = last.find(record.version);
  if (found != last.end()) {
    EXPECT_GE(record.state, found->second.state) << ToString(record.version);
    EXPECT_GE(record.ranks_published, found->second.ranks_published);
  }
  last[record.version] = record;
}

TEST_P(StoreConformanceTest, RandomWalkBesideTheObviousCatalog) {
  const uint64_t seed = Seed();
  SCOPED_TRACE("repeat with WEFT_TEST_SEED=" + std::to_string(seed));
  const auto watch = Watch();
  Walk walk(store(), other(), seed);
  for (int i = 0; i < 1500; ++i) {
    walk.Step();
    if (HasFatalFailure()) FAIL() << "at move " << i;
  }
  walk.CompareAll();
  ASSERT_GT(walk.oracle().leases().size(), 5u) << "the walk goes nowhere";

  // A last version marks the end of what the watch has to tell.
  const std::vector<Member> last_mesh = JoinMesh(1, 1000, "last");
  PublishAll(last_mesh, 1);
  std::map<VersionId, VersionRecord> last;
  AwaitRecord(*watch, [&](const VersionRecord& record) {
    CheckForward(record, last);
    return record.version.run_id == "last";
  });
  const auto records = store().ListVersions(kModel, Soon());
  ASSERT_EQ(records.status(), absl::OkStatus());
  for (const VersionRecord& record : *records) {
    SCOPED_TRACE(ToString(record.version));
    ASSERT_TRUE(last.contains(record.version));
    const VersionRecord& told = last[record.version];
    EXPECT_EQ(told.state, record.state);
    EXPECT_EQ(told.reason, record.reason);
    EXPECT_EQ(told.ranks_published, record.ranks_published);
    EXPECT_EQ(told.source_set, record.source_set);
  }
}

}  // namespace
}  // namespace weft::catalog::testing
