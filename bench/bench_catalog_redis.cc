// Workload: catalog/redis-transitions: 16 publishers in 16 threads, each
// publishes step after step through one catalog store on a Redis of the
// benchmark's own. Bound: redis-benchmark's rate of XADD of the same size from
// 16 connections. Goal: half of it.
#include "bench_catalog_redis.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench_case.h"
#include "child_process.h"
#include "weft/base/log.h"
#include "weft/base/status.h"
#include "weft/catalog/redis/redis_store.h"
#include "weft/manifest/placement.h"

namespace weft::bench {
namespace {

constexpr int kClients = 16;
constexpr int kCalls = 20'000;
// A publish command is about as long as this, with its stream's field.
constexpr int kEntryBytes = 110;

int FreePort() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  const bool bound =
      bind(listener, raw, size) == 0 && getsockname(listener, raw, &size) == 0;
  close(listener);
  return bound ? ntohs(address.sin_port) : 0;
}

absl::StatusOr<std::unique_ptr<apps::ChildProcess>> StartRedis(int port) {
  WEFT_ASSIGN_OR_RETURN(
      auto redis,
      apps::ChildProcess::Start(
          "redis-server",
          {"/usr/bin/env", "redis-server", "--port", absl::StrCat(port),
           "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir",
           std::filesystem::temp_directory_path().string()}));
  std::string line;
  while (line.find("Ready to accept") == std::string::npos) {
    WEFT_ASSIGN_OR_RETURN(line, redis->ReadLine(Patience()));
  }
  return redis;
}

// Calls a second, as redis-benchmark counts them.
absl::StatusOr<double> PlainRate(int port) {
  WEFT_ASSIGN_OR_RETURN(
      auto benchmark,
      apps::ChildProcess::Start(
          "redis-benchmark",
          {"/usr/bin/env", "redis-benchmark", "-p", absl::StrCat(port), "-c",
           absl::StrCat(kClients), "-n", absl::StrCat(kCalls), "--csv", "XADD",
           "plain", "MAXLEN", "~", "10000", "*", "c",
           std::string(kEntryBytes, 'x')}));
  // A heading, then "the command","requests a second",...
  WEFT_RETURN_IF_ERROR(benchmark->ReadLine(Patience()).status());
  WEFT_ASSIGN_OR_RETURN(const std::string row, benchmark->ReadLine(Patience()));
  const std::vector<std::string> cells = absl::StrSplit(row, "\",\"");
  double rate = 0;
  if (cells.size() < 2 || !absl::SimpleAtod(cells[1], &rate)) {
    return absl::InternalError(
        absl::StrCat("redis-benchmark says \"", row, "\""));
  }
  return rate;
}

class Publishers {
 public:
  static absl::StatusOr<std::unique_ptr<Publishers>> Start(
      std::unique_ptr<catalog::CatalogStore> store) {
    auto made = std::make_unique<Publishers>();
    made->store_ = std::move(store);
    const std::string digest = manifest::DigestOf("placement").ToHex();
    WEFT_RETURN_IF_ERROR(
        made->store_->PutPlacement(digest, "placement", Patience()));
    for (int rank = 0; rank < kClients; ++rank) {
      catalog::WorkerInfo info;
      info.model = "bench";
      info.rank = rank;
      info.num_ranks = kClients;
      info.run_id = "run";
      info.placement_digest_hex = digest;
      WEFT_ASSIGN_OR_RETURN(const catalog::Registration registration,
                            made->store_->Register(info, "", Patience()));
      WEFT_ASSIGN_OR_RETURN(
          auto attachment,
          made->store_->Attach(registration.worker_id, Patience()));
      made->workers_.push_back(registration.worker_id);
      made->attachments_.push_back(std::move(attachment));
    }
    return made;
  }

  absl::StatusOr<double> Rate() {
    std::atomic<bool> failed{false};
    std::vector<std::thread> threads;
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& worker : workers_) {
      threads.emplace_back([&, first = step_] {
        for (int i = 1; i <= kCalls / kClients && !failed; ++i) {
          const auto step = first + static_cast<uint64_t>(i);
          if (!store_->PublishShard(worker, step, Patience()).ok()) {
            failed = true;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    step_ += kCalls / kClients;
    if (failed) return absl::InternalError("a publish failed");
    return kCalls / std::chrono::duration<double>(
                        std::chrono::steady_clock::now() - start)
                        .count();
  }

 private:
  std::unique_ptr<catalog::CatalogStore> store_;
  std::vector<std::string> workers_;
  std::vector<std::unique_ptr<catalog::Attachment>> attachments_;
  uint64_t step_ = 0;
};

}  // namespace

absl::Status BenchCatalogOnRedis(const BenchOptions& options) {
  const int port = FreePort();
  const auto redis = StartRedis(port);
  if (!redis.ok()) {
    base::Log(base::LogLevel::kWarning,
              absl::StrCat("no figures of the catalog on redis: ",
                           std::string(redis.status().message())));
    return absl::OkStatus();
  }
  WEFT_ASSIGN_OR_RETURN(auto store, catalog::MakeRedisStore(absl::StrCat(
                                        "redis://127.0.0.1:", port)));
  WEFT_ASSIGN_OR_RETURN(const auto publishers,
                        Publishers::Start(std::move(store)));
  WEFT_ASSIGN_OR_RETURN(
      const CaseResult result,
      RunPaired(
          "catalog/redis-transitions", "1/s", options.runs,
          [&] { return publishers->Rate(); }, [&] { return PlainRate(port); }));
  Print(result, options);
  return absl::OkStatus();
}

}  // namespace weft::bench
