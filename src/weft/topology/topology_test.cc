#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/topology/host.h"
#include "weft/topology/rdma_port.h"

namespace weft::topology {
namespace {

namespace fs = std::filesystem;

// A folder of files that stands in for /proc or /sys.
class FixtureTree : public testing::Test {
 protected:
  FixtureTree() {
    std::string name = testing::TempDir() + "/weft_topology_XXXXXX";
    root_ = mkdtemp(name.data());
  }
  ~FixtureTree() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void Link(const std::string& path, const std::string& target) {
    fs::create_directories((root_ / path).parent_path());
    fs::remove(root_ / path);
    fs::create_symlink(target, root_ / path);
  }
  void WriteProc() {
    Write("sys/kernel/random/boot_id", "0b7a-boot\n");
    Link("self/ns/pid", "pid:[11]");
    Link("self/ns/ipc", "ipc:[12]");
    Link("self/ns/net", "net:[13]");
  }
  std::string root() const { return root_.string(); }

  fs::path root_;
};

TEST_F(FixtureTree, HostIdHoldsBootAndNamespaces) {
  WriteProc();
  const auto id = ReadHostId(root());
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(id->ToString(), "0b7a-boot/11/12/13");
}

TEST_F(FixtureTree, HostIdDiffersWithEachPart) {
  WriteProc();
  const auto id = ReadHostId(root());
  ASSERT_TRUE(id.ok());
  for (const std::string kind : {"pid", "ipc", "net"}) {
    WriteProc();
    Link("self/ns/" + kind, kind + ":[99]");
    const auto other = ReadHostId(root());
    ASSERT_TRUE(other.ok());
    EXPECT_FALSE(*id == *other) << kind;
    EXPECT_NE(id->ToString(), other->ToString()) << kind;
  }
  WriteProc();
  Write("sys/kernel/random/boot_id", "another\n");
  EXPECT_FALSE(*id == *ReadHostId(root()));
}

TEST_F(FixtureTree, HostIdNamesTheFileThatIsMissingOrWrong) {
  EXPECT_THAT(std::string(ReadHostId(root()).status().message()),
              testing::HasSubstr("boot_id"));
  WriteProc();
  fs::remove(root_ / "self/ns/ipc");
  const absl::Status missing = ReadHostId(root()).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), testing::HasSubstr("ns/ipc"));
  for (const std::string wrong :
       {"pid", "pid:[x]", "pid:[12", "net:[12]", "pid:[]"}) {
    WriteProc();
    Link("self/ns/pid", wrong);
    EXPECT_EQ(ReadHostId(root()).status().code(), absl::StatusCode::kDataLoss)
        << wrong;
  }
  WriteProc();
  Write("sys/kernel/random/boot_id", "\n");
  EXPECT_EQ(ReadHostId(root()).status().code(), absl::StatusCode::kDataLoss);
}

TEST(HostIdTest, ThisProcessReadsTheSameIdTwice) {
  const auto first = ReadHostId("/proc");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(*first == *ReadHostId("/proc"));
}

TEST_F(FixtureTree, NoRdmaFolderGivesNoPorts) {
  EXPECT_TRUE(ListRdmaPorts(root()).empty());
  fs::create_directories(root_ / "class/infiniband");
  EXPECT_TRUE(ListRdmaPorts(root()).empty());
}

TEST_F(FixtureTree, PortsComeSortedWithTheirState) {
  const std::string base = "class/infiniband/";
  Write(base + "mlx5_1/ports/1/state", "1: DOWN\n");
  Write(base + "mlx5_0/ports/2/state", "2: INIT\n");
  Write(base + "mlx5_0/ports/1/state", "4: ACTIVE\n");
  Write(base + "mlx5_0/ports/readme", "not a port");
  fs::create_directories(root_ / (base + "rdmap0s6/ports/1"));
  fs::create_directories(root_ / (base + "portless"));

  EXPECT_THAT(ListRdmaPorts(root()),
              testing::ElementsAre(
                  RdmaPort{"mlx5_0", 1, PortState::kActive, "4: ACTIVE"},
                  RdmaPort{"mlx5_0", 2, PortState::kDown, "2: INIT"},
                  RdmaPort{"mlx5_1", 1, PortState::kDown, "1: DOWN"},
                  RdmaPort{"rdmap0s6", 1, PortState::kDown, ""}));
}

}  // namespace
}  // namespace weft::topology
