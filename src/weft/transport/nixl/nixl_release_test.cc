// A Get that is under way when its peer is let go. NIXL released such a request
// and disconnected, and where UCX moves bytes by messages (tcp alone, which it
// must be asked for) the reply was still written when it came: to memory that
// its owner had back.
#include <stdlib.h>

#include <algorithm>
#include <vector>

#include "weft/transport/nixl/nixl_transport.h"
#include "weft/transport/testing/conformance.h"

namespace weft::transport {
namespace {

constexpr int64_t kBytes = int64_t{1} << 20;
constexpr int kGets = 20;

TEST(NixlRelease, NothingIsWrittenAfterAPeerIsLetGo) {
  if (const absl::Status found = FindNixl().status(); !found.ok()) {
    GTEST_SKIP() << found;
  }
  setenv("UCX_TLS", "tcp", 1);
  setenv("UCX_PROTO_EMULATION_ENABLE", "y", 1);
  auto owner = MakeNixlTransport({});
  auto driver = MakeNixlTransport({});
  ASSERT_TRUE(owner.ok()) << owner.status();
  ASSERT_TRUE(driver.ok()) << driver.status();
  const auto source = MakeRegion(**owner, Kind::kHost, kBytes, 1);
  const auto deadline = base::Deadline::After(kConformancePatience);
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(round);
    auto peer = (*driver)->Connect((*owner)->address(), "owner", deadline);
    ASSERT_TRUE(peer.ok()) << peer.status();
    auto remote = (*peer)->Import(source->region->key());
    ASSERT_TRUE(remote.ok()) << remote.status();
    std::vector<std::vector<std::byte>> locals(
        kGets, std::vector<std::byte>(static_cast<size_t>(kBytes)));
    for (int i = 0; i < kGets; ++i) {
      ASSERT_EQ((*peer)->Get(**remote, 0, absl::MakeSpan(locals[i]), nullptr,
                             static_cast<OpTag>(i)),
                absl::OkStatus());
    }
    peer->reset();
    for (auto& local : locals) {
      std::fill(local.begin(), local.end(), std::byte{0x5A});
    }
    // What the owner still had to send has come when a later answer has.
    auto again = (*driver)->Connect((*owner)->address(), "owner", deadline);
    ASSERT_TRUE(again.ok()) << again.status();
    auto remote_again = (*again)->Import(source->region->key());
    ASSERT_TRUE(remote_again.ok()) << remote_again.status();
    std::vector<std::byte> got(static_cast<size_t>(kBytes));
    ASSERT_EQ(GetNow(**again, **remote_again, 0, absl::MakeSpan(got)),
              absl::OkStatus());
    for (const auto& local : locals) {
      EXPECT_EQ(std::count(local.begin(), local.end(), std::byte{0x5A}),
                kBytes);
    }
  }
}

}  // namespace
}  // namespace weft::transport
