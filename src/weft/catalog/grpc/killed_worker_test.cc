// A publisher process that is killed leaves nothing behind: its versions are
// GONE as soon as the kernel closes its connection.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/testing/conformance.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {
namespace {

using testing::kModel;
using testing::Soon;

class WorkerProcess {
 public:
  WorkerProcess(int port, int rank, int num_ranks, int step,
                const std::string& digest) {
    std::vector<std::string> words = {WEFT_ATTACHED_WORKER,
                                      absl::StrCat("127.0.0.1:", port),
                                      kModel,
                                      "run",
                                      absl::StrCat(rank),
                                      absl::StrCat(num_ranks),
                                      absl::StrCat(step),
                                      digest};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&process_id_, WEFT_ATTACHED_WORKER, nullptr, nullptr,
                          arguments.data(), environ),
              0);
  }
  ~WorkerProcess() { Kill(); }

  void Kill() {
    if (process_id_ == 0) return;
    kill(process_id_, SIGKILL);
    waitpid(process_id_, nullptr, 0);
    process_id_ = 0;
  }

 private:
  pid_t process_id_ = 0;
};

VersionRecord AwaitState(VersionWatch& watch, VersionState state) {
  const base::Deadline deadline = Soon();
  while (true) {
    const auto record = watch.Next(deadline);
    if (!record.ok()) {
      ADD_FAILURE() << record.status();
      return {};
    }
    if (record->state == state) return *record;
  }
}

TEST(KilledWorkerTest, ItsVersionIsGone) {
  const auto store = MakeMemoryStore();
  const auto server = CatalogServer::Start("127.0.0.1:0", store.get());
  ASSERT_EQ(server.status(), absl::OkStatus());
  const std::string digest = manifest::DigestOf("placement").ToHex();
  ASSERT_EQ(store->PutPlacement(digest, "placement", Soon()), absl::OkStatus());
  const auto watch = store->WatchVersions(kModel, Soon());
  ASSERT_EQ(watch.status(), absl::OkStatus());

  const int port = (*server)->port();
  WorkerProcess first(port, 0, 2, 7, digest);
  WorkerProcess second(port, 1, 2, 7, digest);
  EXPECT_EQ(AwaitState(**watch, VersionState::kReady).version,
            testing::Version(7));
  second.Kill();
  const VersionRecord gone = AwaitState(**watch, VersionState::kGone);
  EXPECT_EQ(gone.version, testing::Version(7));
  EXPECT_EQ(gone.reason,
            "publisher rank 1 died or lost its connection; the next step heals "
            "it");
  const auto sources = store->GetSources(kModel, Soon());
  ASSERT_EQ(sources.status(), absl::OkStatus());
  ASSERT_EQ(sources->sources.size(), 1u);
  EXPECT_EQ(sources->sources[0].rank, 0);

  // Its successor takes the rank, and the server stops with both attached.
  WorkerProcess again(port, 1, 2, 8, digest);
  AwaitState(**watch, VersionState::kStaging);
  (*server)->Shutdown();
  EXPECT_EQ(store->GetSources(kModel, Soon()).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace weft::catalog
