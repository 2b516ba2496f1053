// The rules of store.h as tests for any CatalogStore. A leaf links
// weft_catalog_testing and adds one line:
//
//   INSTANTIATE_TEST_SUITE_P(Memory, StoreConformanceTest,
//                            testing::Values(StoreMaker{"memory", MakeIt}));
#ifndef WEFT_CATALOG_TESTING_CONFORMANCE_H_
#define WEFT_CATALOG_TESTING_CONFORMANCE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"

namespace weft::catalog::testing {

// What the store under test must be made with.
struct StoreSetup {
  std::function<base::Deadline::Clock::time_point()> now;
  std::chrono::nanoseconds lease_duration;
  std::chrono::nanoseconds attach_within;
};

// A store, with all that has to live as long as it.
class StoreUnderTest {
 public:
  virtual ~StoreUnderTest() = default;
  // Two ways to the same state: two clients of a server, or twice the same.
  virtual CatalogStore& first() = 0;
  virtual CatalogStore& second() = 0;
};

struct StoreMaker {
  std::string name;
  std::function<std::unique_ptr<StoreUnderTest>(const StoreSetup&)> make;
};
inline void PrintTo(const StoreMaker& maker, std::ostream* out) {
  *out << maker.name;
}

inline constexpr char kModel[] = "lab/model-1.0";
inline constexpr char kRun[] = "run";
inline constexpr std::chrono::seconds kLeaseDuration(600);
inline constexpr std::chrono::seconds kAttachWithin(10);

// Long enough that only a hang reaches it.
inline base::Deadline Soon() {
  return base::Deadline::After(std::chrono::seconds(60));
}
inline base::Deadline Passed() {
  return base::Deadline::At(base::Deadline::Clock::time_point());
}

struct Member {
  WorkerInfo info;
  Registration registration;
  std::unique_ptr<Attachment> attachment;
  const std::string& id() const { return registration.worker_id; }
};

WorkerInfo PublisherInfo(int64_t rank, int64_t num_ranks, uint64_t epoch = 0,
                         const std::string& run_id = kRun);
// One that holds the same as all others with `key`, a hexadecimal digit.
WorkerInfo ReplicaInfo(int64_t rank, int64_t num_ranks, char key,
                       uint64_t epoch = 0);
WorkerInfo ReceiverInfo(int64_t rank = 0);
WorkerInfo CopyInfo(int64_t rank = 0, uint64_t epoch = 0,
                    const std::string& run_id = kRun);
VersionId Version(uint64_t step, uint64_t epoch = 0,
                  const std::string& run_id = kRun);

class StoreConformanceTest : public ::testing::TestWithParam<StoreMaker> {
 protected:
  void SetUp() override;

  CatalogStore& store() { return under_test_->first(); }
  CatalogStore& other() { return under_test_->second(); }

  // For leases and registrations only; deadlines are real.
  void AdvanceClock(std::chrono::nanoseconds by) { clock_ns_ += by.count(); }

  absl::StatusOr<Registration> Register(const WorkerInfo& info);
  // Registers and attaches; fails the test if either fails.
  Member Join(const WorkerInfo& info);
  // All publishers of a mesh.
  std::vector<Member> JoinMesh(int64_t num_ranks, uint64_t epoch = 0,
                               const std::string& run_id = kRun);
  void PublishAll(const std::vector<Member>& members, uint64_t step);
  std::string AcquireLease(const Member& receiver, const VersionId& version);

  std::unique_ptr<VersionWatch> Watch();
  // The next record for which `wanted` holds; those before are passed over.
  VersionRecord AwaitRecord(
      VersionWatch& watch,
      const std::function<bool(const VersionRecord&)>& wanted);
  VersionRecord AwaitState(VersionWatch& watch, const VersionId& version,
                           VersionState state);

  // The version's record from ListVersions, which must hold it.
  VersionRecord Find(const VersionId& version);
  WorkerRecord FindWorker(const std::string& worker_id);

  // Of the placement that every publisher of these tests has.
  static const std::string& PlacementBytes();

 private:
  std::atomic<int64_t> clock_ns_{std::int64_t{1} << 40};
  std::unique_ptr<StoreUnderTest> under_test_;
};

}  // namespace weft::catalog::testing

#endif  // WEFT_CATALOG_TESTING_CONFORMANCE_H_
