// Device memory of another process, on real GPUs (label gpu): this program runs
// itself as the peer, on the first GPU, and reads it from the last.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "weft/memory/cuda/cuda_driver.h"
#include "weft/transport/cuda/cuda_transport.h"
#include "weft/transport/testing/conformance.h"
#include "weft/transport/testing/pattern.h"

extern char** environ;

namespace weft::transport {
namespace {

using memory::DeviceAllocationKind;
using memory::DeviceBuffer;

base::Deadline Patience() {
  return base::Deadline::After(kConformancePatience);
}

absl::Status CopyNow(memory::DeviceDriver& driver, int device, std::byte* dst,
                     const std::byte* src, int64_t bytes) {
  auto queue = driver.MakeQueue(device);
  if (!queue.ok()) return queue.status();
  if (absl::Status copied = (*queue)->Copy(dst, src, bytes); !copied.ok()) {
    return copied;
  }
  return (*queue)->Wait(Patience(), "copying");
}

// The peer: prints its address and the key of patterned memory; "free" gives
// the registration up, "check SEED" says whether the memory has that pattern.
int RunPeer(const std::string& kind, int64_t bytes, uint64_t seed) {
  memory::DeviceDriver& driver = **memory::CudaDriver();
  auto transport = *MakeCudaTransport({.driver = &driver, .device = 0});
  auto buffer =
      *DeviceBuffer::Allocate(driver, 0, bytes,
                              kind == "virtual" ? DeviceAllocationKind::kVirtual
                                                : DeviceAllocationKind::kPlain);
  std::vector<std::byte> host(static_cast<size_t>(bytes));
  FillPattern(absl::MakeSpan(host), seed);
  if (!CopyNow(driver, 0, buffer->data(), host.data(), bytes).ok()) return 1;
  auto region = transport->Register(
      {buffer->data(), static_cast<size_t>(bytes)}, nullptr);
  if (!region.ok()) {
    std::cerr << region.status() << std::endl;
    return 1;
  }
  std::cout << absl::BytesToHexString(transport->address()) << " "
            << absl::BytesToHexString((*region)->key()) << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) {
    if (line == "free") {
      region->reset();
      std::cout << "freed" << std::endl;
    } else if (line.rfind("check ", 0) == 0) {
      uint64_t wanted = 0;
      if (!absl::SimpleAtoi(line.substr(6), &wanted) ||
          !CopyNow(driver, 0, host.data(), buffer->data(), bytes).ok()) {
        return 1;
      }
      std::cout << (FindMismatch(host, wanted) < 0 ? "same" : "different")
                << std::endl;
    }
  }
  return 0;
}

// The process, killed when destroyed.
class PeerProcess {
 public:
  PeerProcess(const std::string& kind, int64_t bytes, uint64_t seed) {
    int in[2];
    int out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) return;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::vector<std::string> words = {"/proc/self/exe", "--peer", kind,
                                      absl::StrCat(bytes), absl::StrCat(seed)};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
    const std::vector<std::string> words_printed =
        absl::StrSplit(ReadLine(), ' ');
    if (words_printed.size() != 2) return;
    address = absl::HexStringToBytes(words_printed[0]);
    key = absl::HexStringToBytes(words_printed[1]);
  }
  ~PeerProcess() {
    Kill();
    if (to_ != nullptr) std::fclose(to_);
    if (from_ != nullptr) std::fclose(from_);
  }
  std::string Ask(const std::string& command) {
    std::fprintf(to_, "%s\n", command.c_str());
    std::fflush(to_);
    return ReadLine();
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  std::string address;
  std::string key;

 private:
  std::string ReadLine() {
    std::string line;
    for (int c = std::fgetc(from_); c != EOF && c != '\n';
         c = std::fgetc(from_)) {
      line.push_back(static_cast<char>(c));
    }
    return line;
  }
  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

class DeviceMemory : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto driver = memory::CudaDriver();
    if (!driver.ok()) {
      GTEST_SKIP() << "no CUDA device: " << driver.status().message();
    }
    driver_ = *driver;
    device_ = driver_->num_devices() - 1;
    handles_ = std::make_shared<memory::OpenedHandles>(*driver_);
    transport_ = *MakeCudaTransport(
        {.driver = driver_, .device = device_, .handles = handles_});
  }
  // Of `bytes` at `from`, on any GPU.
  std::vector<std::byte> Download(const std::byte* from, int64_t bytes) {
    std::vector<std::byte> host(static_cast<size_t>(bytes));
    EXPECT_EQ(CopyNow(*driver_, device_, host.data(), from, bytes),
              absl::OkStatus());
    return host;
  }

  memory::DeviceDriver* driver_ = nullptr;
  int device_ = 0;
  std::shared_ptr<memory::OpenedHandles> handles_;
  std::unique_ptr<Transport> transport_;
};

constexpr int64_t kBytes = (int64_t{5} << 20) + 13;

TEST_P(DeviceMemory, IsMappedReadAndWritten) {
  PeerProcess process(GetParam(), kBytes, 7);
  auto peer = transport_->Connect(process.address, "owner", Patience());
  ASSERT_TRUE(peer.ok()) << peer.status();
  auto remote = (*peer)->Import(process.key);
  ASSERT_TRUE(remote.ok()) << remote.status();
  EXPECT_EQ((*remote)->device(), device_);
  EXPECT_EQ((*remote)->size_bytes(), kBytes);
  ASSERT_NE((*remote)->mapped(), nullptr);
  EXPECT_EQ(FindMismatch(Download((*remote)->mapped(), kBytes), 7), -1);
  // Posted access, from host memory and from this GPU's.
  std::vector<std::byte> local(100001);
  ASSERT_EQ(GetNow(**peer, **remote, 4097, absl::MakeSpan(local)),
            absl::OkStatus());
  EXPECT_EQ(FindMismatch(local, 7, 4097), -1);
  auto here = *DeviceBuffer::Allocate(*driver_, device_, kBytes);
  ASSERT_EQ(
      GetNow(**peer, **remote, 0, {here->data(), static_cast<size_t>(kBytes)}),
      absl::OkStatus());
  EXPECT_EQ(FindMismatch(Download(here->data(), kBytes), 7), -1);
  const StridedPieces pieces{
      .offset_bytes = 3, .modes = {{100, 4096}, {3, 512}}, .piece_bytes = 256};
  std::vector<std::byte> packed(static_cast<size_t>(pieces.packed_bytes()));
  ASSERT_EQ(GatherNow(**peer, **remote, pieces, absl::MakeSpan(packed)),
            absl::OkStatus());
  for (int64_t i = 0; i < 300; ++i) {
    ASSERT_EQ(FindMismatch(absl::MakeSpan(packed).subspan(
                               static_cast<size_t>(i * 256), 256),
                           7, 3 + i / 3 * 4096 + i % 3 * 512),
              -1)
        << i;
  }
  std::vector<std::byte> other(static_cast<size_t>(kBytes));
  FillPattern(absl::MakeSpan(other), 8);
  ASSERT_EQ(PutNow(**peer, **remote, 0, other), absl::OkStatus());
  EXPECT_EQ(process.Ask("check 8"), "same");
}

TEST_P(DeviceMemory, IsOpenedOnceAndClosedWithTheLastPeer) {
  PeerProcess process(GetParam(), kBytes, 1);
  for (int round = 0; round < 3; ++round) {
    auto peer = *transport_->Connect(process.address, "owner", Patience());
    std::vector<std::unique_ptr<RemoteRegion>> regions;
    for (int i = 0; i < 1000; ++i) {
      auto remote = peer->Import(process.key);
      ASSERT_TRUE(remote.ok()) << remote.status();
      regions.push_back(*std::move(remote));
    }
    EXPECT_EQ(handles_->counts().open, 1);
    EXPECT_GE(handles_->counts().bytes, kBytes);
    EXPECT_EQ(handles_->counts().opened, round + 1);
  }
  EXPECT_EQ(handles_->counts().open, 0);
}

TEST_P(DeviceMemory, FreedRegionsAndKilledPeersAreNoticed) {
  PeerProcess process(GetParam(), kBytes, 1);
  auto peer = *transport_->Connect(process.address, "owner", Patience());
  auto remote = *peer->Import(process.key);
  EXPECT_EQ(process.Ask("free"), "freed");
  EXPECT_TRUE(absl::IsNotFound(peer->Import(process.key).status()));
  std::vector<std::byte> local(100);
  EXPECT_TRUE(
      absl::IsNotFound(GetNow(*peer, *remote, 0, absl::MakeSpan(local))));
  process.Kill();
  EXPECT_TRUE(absl::IsUnavailable(AwaitDeath(*peer, Patience())));
}

TEST_P(DeviceMemory, AllocatedAgainIsAnotherAllocation) {
  const auto kind = GetParam() == "virtual" ? DeviceAllocationKind::kVirtual
                                            : DeviceAllocationKind::kPlain;
  auto first = *DeviceBuffer::Allocate(*driver_, device_, kBytes, kind);
  const auto before = *driver_->Find(first->data() + 100);
  EXPECT_EQ(before.base, first->data());
  EXPECT_GE(before.bytes, kBytes);
  EXPECT_EQ(before.device, device_);
  EXPECT_TRUE(before.exportable);
  EXPECT_EQ(before.kind, kind);
  first.reset();
  auto second = *DeviceBuffer::Allocate(*driver_, device_, kBytes, kind);
  EXPECT_NE(driver_->Find(second->data())->id, before.id);
  int on_host = 0;
  EXPECT_TRUE(absl::IsNotFound(
      driver_->Find(reinterpret_cast<std::byte*>(&on_host)).status()));
}

INSTANTIATE_TEST_SUITE_P(Kinds, DeviceMemory,
                         testing::Values("plain", "virtual"),
                         [](const auto& each) { return each.param; });

}  // namespace
}  // namespace weft::transport

int main(int argc, char** argv) {
  int64_t bytes = 0;
  uint64_t seed = 0;
  if (argc == 5 && std::strcmp(argv[1], "--peer") == 0 &&
      absl::SimpleAtoi(argv[3], &bytes) && absl::SimpleAtoi(argv[4], &seed)) {
    return weft::transport::RunPeer(argv[2], bytes, seed);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
