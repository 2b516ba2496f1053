// A server whose link to Redis stands still while another writes more than the
// log keeps: what it missed is cut away, and it must take the snapshot.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/catalog/redis/redis_store.h"
#include "weft/catalog/testing/conformance.h"
#include "weft/catalog/testing/redis_process.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {
namespace {

using testing::kModel;
using testing::PublisherInfo;
using testing::RedisProcess;
using testing::Soon;
using testing::Version;

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// Carries bytes to a port and back, and can be told to hold them.
class Valve {
 public:
  explicit Valve(int target_port)
      : target_port_(target_port), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), bytes), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    EXPECT_EQ(
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &bytes),
        0);
    port_ = ntohs(address.sin_port);
    threads_.emplace_back([this] { Accept(); });
  }
  ~Valve() {
    std::vector<std::thread> threads;
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      changed_.notify_all();
      shutdown(listener_, SHUT_RDWR);
      for (const int each : sockets_) shutdown(each, SHUT_RDWR);
      threads.swap(threads_);
    }
    for (std::thread& each : threads) each.join();
    for (const int each : sockets_) close(each);
    close(listener_);
  }
  int port() const { return port_; }
  void Hold(bool hold) {
    const std::lock_guard lock(mutex_);
    held_ = hold;
    changed_.notify_all();
  }

 private:
  void Accept() {
    while (true) {
      const int client = accept(listener_, nullptr, nullptr);
      const std::lock_guard lock(mutex_);
      if (client < 0 || closed_) {
        if (client >= 0) close(client);
        return;
      }
      const int server = socket(AF_INET, SOCK_STREAM, 0);
      sockets_.push_back(client);
      sockets_.push_back(server);
      const sockaddr_in address = Loopback(target_port_);
      if (connect(server, reinterpret_cast<const sockaddr*>(&address),
                  sizeof(address)) != 0) {
        shutdown(client, SHUT_RDWR);
        continue;
      }
      threads_.emplace_back([=, this] { Carry(client, server); });
      threads_.emplace_back([=, this] { Carry(server, client); });
    }
  }
  void Carry(int from, int to) {
    std::array<char, 4096> bytes;
    while (true) {
      const ssize_t count = recv(from, bytes.data(), bytes.size(), 0);
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !held_ || closed_; });
      }
      if (count <= 0) break;
      if (send(to, bytes.data(), static_cast<size_t>(count), MSG_NOSIGNAL) !=
          count) {
        break;
      }
    }
    shutdown(to, SHUT_RDWR);
  }

  const int target_port_;
  const int listener_;
  int port_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  bool closed_ = false;
  std::vector<int> sockets_;
  std::vector<std::thread> threads_;
};

TEST(RedisBehindTest, AReaderThatMissedWhatWasCutTakesTheSnapshot) {
  RedisProcess redis(/*durable=*/false);
  ASSERT_TRUE(redis.runs());
  Valve valve(redis.port());
  const auto writer =
      MakeRedisStore(redis.Url("p"), {.entries_a_snapshot = 64});
  ASSERT_EQ(writer.status(), absl::OkStatus());
  const auto late =
      MakeRedisStore(absl::StrCat("redis://127.0.0.1:", valve.port(), "/p"),
                     {.entries_a_snapshot = 64});
  ASSERT_EQ(late.status(), absl::OkStatus());

  WorkerInfo info = PublisherInfo(0, 1);
  info.placement_digest_hex = manifest::DigestOf("placement").ToHex();
  ASSERT_EQ(
      (*writer)->PutPlacement(info.placement_digest_hex, "placement", Soon()),
      absl::OkStatus());
  const auto worker = (*writer)->Register(info, "", Soon());
  ASSERT_EQ(worker.status(), absl::OkStatus());
  const auto attachment = (*writer)->Attach(worker->worker_id, Soon());
  ASSERT_EQ(attachment.status(), absl::OkStatus());
  const auto watch = (*late)->WatchVersions(kModel, Soon());
  ASSERT_EQ(watch.status(), absl::OkStatus());

  valve.Hold(true);
  constexpr uint64_t kSteps = 600;
  for (uint64_t step = 1; step <= kSteps; ++step) {
    ASSERT_TRUE((*writer)->PublishShard(worker->worker_id, step, Soon()).ok());
  }
  valve.Hold(false);
  const base::Deadline deadline = Soon();
  auto record = (*watch)->Next(deadline);
  while (record.ok() && (record->version != Version(kSteps) ||
                         record->state != VersionState::kReady)) {
    record = (*watch)->Next(deadline);
  }
  EXPECT_EQ(record.status(), absl::OkStatus());
  // What both know is the same, and the one that was away can write.
  const auto mine = (*writer)->ListVersions(kModel, Soon());
  absl::StatusOr<std::vector<VersionRecord>> theirs =
      (*late)->ListVersions(kModel, Soon());
  while (absl::IsUnavailable(theirs.status()) && !deadline.Passed()) {
    theirs = (*late)->ListVersions(kModel, Soon());
  }
  ASSERT_EQ(theirs.status(), absl::OkStatus());
  ASSERT_EQ(theirs->size(), mine->size());
  for (size_t i = 0; i < mine->size(); ++i) {
    EXPECT_EQ((*theirs)[i].version, (*mine)[i].version);
    EXPECT_EQ((*theirs)[i].state, (*mine)[i].state);
  }
  EXPECT_EQ((*late)->Register(testing::ReceiverInfo(), "", Soon()).status(),
            absl::OkStatus());
}

}  // namespace
}  // namespace weft::catalog
