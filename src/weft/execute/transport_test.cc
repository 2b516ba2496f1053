// Refits over the real transports: peers in this process, and a publisher in
// another process by shared memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "weft/base/byte_codec.h"
#include "weft/execute/executor.h"
#include "weft/execute/testing/refit_case.h"
#include "weft/transport/inproc/inproc_transport.h"
#include "weft/transport/shm/shm_transport.h"

namespace weft::execute::testing {
namespace {

using memory::MemoryKind;

base::Deadline Soon() { return base::Deadline::After(std::chrono::minutes(1)); }

// The connections of a receiver; regions go before peers.
struct Links {
  std::vector<std::unique_ptr<transport::Peer>> peers;
  std::vector<std::unique_ptr<transport::RemoteRegion>> regions;
  std::vector<RemoteRank> remotes;
  bool mapped = true;  // all regions

  void Add(transport::Transport& from, int64_t rank, const RankMemory& memory,
           std::string_view address, std::string_view key) {
    peers.push_back(
        from.Connect(address, absl::StrCat("publisher rank ", rank), Soon())
            .value());
    regions.push_back(peers.back()->Import(key).value());
    mapped &= regions.back()->mapped() != nullptr;
    RemoteRank remote;
    remote.rank = rank;
    remote.peer = peers.back().get();
    remote.transport = &from;
    for (const int64_t offset : memory.offsets) {
      remote.stored.push_back({regions.back().get(), offset});
    }
    remotes.push_back(std::move(remote));
  }
};

std::vector<LocalStored> Local(const RankMemory& memory,
                               const transport::Region* region) {
  std::vector<LocalStored> local;
  for (size_t s = 0; s < memory.offsets.size(); ++s) {
    local.push_back({memory.at(s), memory.sizes[s], region});
  }
  return local;
}

void CheckInproc(MemoryKind kind, bool push, uint64_t seed) {
  SCOPED_TRACE(absl::StrCat("seed ", seed, " kind ", static_cast<int>(kind),
                            " push ", push ? 1 : 0));
  RefitCase refit(seed, kind);
  ASSERT_EQ(refit.error, "");
  ExecuteOptions options;
  options.staging_bytes = 64 << 10;
  options.num_threads = 2;
  const auto target = transport::MakeInprocTransport();
  const auto target_region = target
                                 ->Register(refit.target_memory.buffer->span(),
                                            refit.target_memory.buffer.get())
                                 .value();
  std::vector<std::unique_ptr<transport::Transport>> sources;
  std::vector<std::unique_ptr<transport::Region>> regions;
  Links links;
  for (size_t r = 0; r < refit.sources.size(); ++r) {
    const auto rank = static_cast<int64_t>(r);
    sources.push_back(transport::MakeInprocTransport());
    memory::Buffer* const buffer = refit.memories[r].buffer.get();
    regions.push_back(sources.back()->Register(buffer->span(), buffer).value());
    if (push) {
      links.Add(*sources.back(), 0, refit.target_memory, target->address(),
                target_region->key());
    } else {
      links.Add(*target, rank, refit.memories[r], sources.back()->address(),
                regions.back()->key());
    }
  }
  EXPECT_EQ(links.mapped, kind == MemoryKind::kShared);
  std::vector<std::unique_ptr<Program>> programs;
  if (!push) {
    programs.push_back(BindPull(refit.plan, *refit.index, refit.target,
                                convert::CpuKernels(),
                                Local(refit.target_memory, target_region.get()),
                                links.remotes, options)
                           .value());
  } else {
    for (size_t r = 0; r < refit.sources.size(); ++r) {
      programs.push_back(BindPush(refit.plan, *refit.index, refit.target,
                                  convert::CpuKernels(),
                                  static_cast<int64_t>(r),
                                  Local(refit.memories[r], regions[r].get()),
                                  links.remotes[r], options)
                             .value());
    }
  }
  for (int version = 0; version < 2; ++version) {
    refit.NewVersion();
    ApplyZeroFills(refit.plan, refit.target,
                   Local(refit.target_memory, nullptr));
    for (const auto& program : programs) {
      const auto report = program->Run(Soon());
      ASSERT_TRUE(report.ok()) << report.status();
    }
    EXPECT_EQ(refit.CheckTarget(), "");
  }
}

TEST(TransportTest, InprocEqualsTheOracle) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    for (const MemoryKind kind : {MemoryKind::kShared, MemoryKind::kHost}) {
      CheckInproc(kind, false, seed);
      CheckInproc(kind, true, seed);
    }
  }
}

// A publisher process that holds the sources of RefitCase(seed) until it is
// killed. What it tells its parent: for each rank its key, after the address.
class Publisher {
 public:
  Publisher(uint64_t seed, MemoryKind kind) {
    int tell[2];
    if (pipe(tell) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      close(tell[0]);
      Serve(seed, kind, tell[1]);
    }
    close(tell[1]);
    std::string bytes;
    char buffer[4096];
    ssize_t got;
    while ((got = read(tell[0], buffer, sizeof buffer)) > 0) {
      bytes.append(buffer, static_cast<size_t>(got));
    }
    close(tell[0]);
    base::ByteReader reader(bytes);
    address = reader.Bytes();
    while (reader.remaining() > 0) keys.emplace_back(reader.Bytes());
  }
  ~Publisher() { Kill(); }
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

  std::string address;
  std::vector<std::string> keys;

 private:
  [[noreturn]] static void Serve(uint64_t seed, MemoryKind kind, int tell) {
    RefitCase refit(seed, kind);
    refit.NewVersion();
    const auto transport = transport::MakeShmTransport().value();
    std::vector<std::unique_ptr<transport::Region>> regions;
    base::ByteWriter writer;
    writer.Bytes(transport->address());
    for (const RankMemory& memory : refit.memories) {
      regions.push_back(
          transport->Register(memory.buffer->span(), memory.buffer.get())
              .value());
      writer.Bytes(regions.back()->key());
    }
    const std::string& bytes = writer.bytes();
    if (write(tell, bytes.data(), bytes.size()) < 0) _exit(1);
    close(tell);
    while (true) pause();
  }
  pid_t pid_ = -1;
};

class ShmTest : public ::testing::TestWithParam<MemoryKind> {};

TEST_P(ShmTest, AnotherProcessIsReadAndItsDeathIsNoticed) {
  const uint64_t seed = 5;
  Publisher publisher(seed, GetParam());
  RefitCase refit(seed, GetParam());
  refit.NewVersion();  // the same values as the publisher's
  ASSERT_EQ(publisher.keys.size(), refit.sources.size());
  const auto transport = transport::MakeShmTransport().value();
  Links links;
  for (size_t r = 0; r < refit.sources.size(); ++r) {
    links.Add(*transport, static_cast<int64_t>(r), refit.memories[r],
              publisher.address, publisher.keys[r]);
  }
  EXPECT_EQ(links.mapped, GetParam() == MemoryKind::kShared);
  auto program =
      BindPull(refit.plan, *refit.index, refit.target, convert::CpuKernels(),
               Local(refit.target_memory, nullptr), links.remotes,
               ExecuteOptions{})
          .value();
  ApplyZeroFills(refit.plan, refit.target, Local(refit.target_memory, nullptr));
  const auto report = program->Run(Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(refit.CheckTarget(), "");
  EXPECT_EQ(report->mapped_bytes > 0, links.mapped);

  publisher.Kill();
  const auto after = program->Run(Soon());
  ASSERT_EQ(after.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(after.status().message()),
              ::testing::HasSubstr("publisher rank"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, ShmTest,
                         ::testing::Values(MemoryKind::kShared,
                                           MemoryKind::kHost));

}  // namespace
}  // namespace weft::execute::testing
