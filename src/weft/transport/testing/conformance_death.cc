// The part of the conformance suite in which peers close, die or stall.
#include <signal.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "weft/transport/testing/conformance.h"
#include "weft/transport/testing/pattern.h"
#include "weft/transport/testing/test_peer.h"

namespace weft::transport {
namespace {

using testing::HasSubstr;

constexpr int64_t kProcessBytes = int64_t{8} << 20;

// A peer in another process, connected, with its region imported.
struct Remote {
  std::unique_ptr<Transport> transport;
  std::unique_ptr<TestPeer> process;
  std::unique_ptr<Peer> peer;
  std::unique_ptr<RemoteRegion> region;
};

absl::StatusOr<Remote> StartRemote(const ConformanceCase& leaf,
                                   const std::string& memory_kind) {
  Remote remote;
  auto process = TestPeer::Start(
      leaf.process_name,
      leaf.process_memory.empty() ? memory_kind : leaf.process_memory,
      kProcessBytes, 21);
  if (!process.ok()) return process.status();
  remote.process = *std::move(process);
  auto transport = leaf.make();
  if (!transport.ok()) return transport.status();
  remote.transport = *std::move(transport);
  auto peer =
      remote.transport->Connect(remote.process->address(), "publisher rank 3",
                                base::Deadline::After(kConformancePatience));
  if (!peer.ok()) return peer.status();
  remote.peer = *std::move(peer);
  auto region = remote.peer->Import(remote.process->key());
  if (!region.ok()) return region.status();
  remote.region = *std::move(region);
  return remote;
}

TEST_P(TransportConformance, AClosedTransportIsALostPeer) {
  auto owner = Make();
  auto driver = Make();
  const std::string address = owner->address();
  auto peer = Connect(*driver, *owner);
  auto target = MakeRegion(*owner, Kind::kHost, 10000, 1);
  auto remote = peer->Import(target->region->key());
  ASSERT_TRUE(remote.ok());
  owner.reset();

  const absl::Status health = AwaitDeath(*peer, Patience());
  EXPECT_TRUE(absl::IsUnavailable(health)) << health;
  EXPECT_THAT(std::string(health.message()), HasSubstr("publisher rank 3"));
  LocalMemory local(100);
  const absl::Status get = GetNow(*peer, **remote, 0, local.span());
  EXPECT_TRUE(absl::IsUnavailable(get)) << get;
  EXPECT_TRUE(
      absl::IsUnavailable(peer->Import(target->region->key()).status()));
  EXPECT_TRUE(absl::IsUnavailable(peer->Flush(Patience())));
  const absl::Status connect =
      driver
          ->Connect(address, "late",
                    base::Deadline::After(std::chrono::seconds(3)))
          .status();
  EXPECT_TRUE(absl::IsUnavailable(connect) || absl::IsDeadlineExceeded(connect))
      << connect;
  EXPECT_THAT(std::string(connect.message()), HasSubstr("late"));
}

TEST_P(TransportConformance, AnyOrderOfDestructionEnds) {
  if (!GetParam().outlives_readers) GTEST_SKIP() << "readers end the owner";
  for (int order = 0; order < 6; ++order) {
    SCOPED_TRACE(order);
    auto owner = Make();
    auto driver = Make();
    auto target = MakeRegion(*owner, Kind::kHost, 3 << 20, 1);
    auto local = MakeLocalRegion(*driver, Kind::kHost, 3 << 20, 2);
    auto peer = Connect(*driver, *owner);
    auto remote = peer->Import(target->region->key());
    ASSERT_TRUE(remote.ok());
    // In flight while everything goes.
    for (OpTag tag = 0; tag < 20; ++tag) {
      ASSERT_TRUE(
          peer->Get(**remote, 0, local->memory, local->region.get(), tag).ok());
      ASSERT_TRUE(peer->Gather(**remote,
                               {.modes = {{1000, 2000}}, .piece_bytes = 1000},
                               local->memory.first(1000000), nullptr, tag + 100)
                      .ok());
    }
    if (order % 2 == 0) owner.reset();
    if (order == 1) driver.reset();
    if (order == 2) target.reset();
    std::vector<Completion> completions;
    if (order >= 3) peer->Poll(completions);
    remote->reset();
    peer.reset();
    if (order == 4) driver.reset();
    local.reset();
    if (order == 5) owner.reset();
    target.reset();
  }
}

TEST_P(TransportConformance, ReachesAnotherProcess) {
  if (GetParam().process_name.empty()) GTEST_SKIP() << "one process only";
  for (const std::string kind : {"shared", "host", "malloc"}) {
    SCOPED_TRACE(kind);
    auto remote = StartRemote(GetParam(), kind);
    ASSERT_TRUE(remote.ok()) << remote.status();
    EXPECT_EQ(remote->region->mapped() != nullptr,
              kind == "shared" && remote->transport->capabilities().mapped);
    LocalMemory local(kProcessBytes);
    ASSERT_EQ(GetNow(*remote->peer, *remote->region, 0, local.span()),
              absl::OkStatus());
    EXPECT_EQ(Mismatch(local, 21), -1);

    const StridedPieces pieces{
        .offset_bytes = 100, .modes = {{7000, 1000}}, .piece_bytes = 256};
    LocalMemory packed(7000 * 256);
    ASSERT_EQ(GatherNow(*remote->peer, *remote->region, pieces, packed.span()),
              absl::OkStatus());
    for (int64_t i = 0; i < 7000; ++i) {
      ASSERT_EQ(
          Mismatch(packed.span().subspan(static_cast<size_t>(i * 256), 256), 21,
                   100 + i * 1000),
          -1);
    }
    const auto put = local.span().first(3000001);
    Fill(put, 22);
    ASSERT_EQ(PutNow(*remote->peer, *remote->region, 4567, put),
              absl::OkStatus());
    EXPECT_EQ(remote->process->Ask("check 22 4567 3000001"), "same");
    EXPECT_EQ(remote->process->Ask("free"), "freed");
    EXPECT_TRUE(absl::IsNotFound(
        remote->peer->Import(remote->process->key()).status()));
  }
}

// Keeps operations in flight until one fails; everything posted must complete
// and the failure must name the peer.
void PostUntilDeath(Remote& remote, const std::string& what,
                    const std::function<absl::Status(OpTag)>& post,
                    const std::function<void(int64_t done)>& after_poll) {
  const base::Deadline deadline = base::Deadline::After(kConformancePatience);
  OpTag tag = 0;
  int64_t done = 0;
  absl::Status failure;
  std::vector<Completion> completions;
  while (failure.ok() && !deadline.Passed()) {
    while (failure.ok() && remote.peer->in_flight() < 16) failure = post(++tag);
    completions.clear();
    remote.peer->Poll(completions);
    for (const Completion& completion : completions) {
      ++done;
      if (!completion.status.ok()) failure = completion.status;
    }
    after_poll(done);
  }
  EXPECT_TRUE(absl::IsUnavailable(failure)) << what << ": " << failure;
  EXPECT_THAT(std::string(failure.message()), HasSubstr("publisher rank 3"));
  Collect(*remote.peer, static_cast<size_t>(remote.peer->in_flight()),
          deadline);
  EXPECT_EQ(remote.peer->in_flight(), 0) << what;
  const absl::Status health = AwaitDeath(*remote.peer, deadline);
  EXPECT_TRUE(absl::IsUnavailable(health)) << what << ": " << health;
}

TEST_P(TransportConformance, AKilledPeerFailsWhatIsInFlight) {
  if (GetParam().process_name.empty()) GTEST_SKIP() << "one process only";
  for (const std::string what : {"get", "put", "gather"}) {
    for (const std::string kind : {"shared", "malloc"}) {
      SCOPED_TRACE(absl::StrCat(what, " ", kind));
      auto started = StartRemote(GetParam(), kind);
      ASSERT_TRUE(started.ok()) << started.status();
      Remote& remote = *started;
      LocalMemory local(1 << 20);
      const auto post = [&](OpTag tag) {
        if (what == "put") {
          return remote.peer->Put(*remote.region, 3, local, nullptr, tag);
        }
        if (what == "gather") {
          return remote.peer->Gather(
              *remote.region, {.modes = {{4096, 1024}}, .piece_bytes = 256},
              local.span(), nullptr, tag);
        }
        return remote.peer->Get(*remote.region, 3, local.span(), nullptr, tag);
      };
      bool killed = false;
      PostUntilDeath(remote, what, post, [&](int64_t done) {
        if (done < 20 || killed) return;
        remote.process->Kill();
        killed = true;
      });
      EXPECT_TRUE(killed);
    }
  }
}

// A reader that dies with transfers under way once took the owner with it.
TEST_P(TransportConformance, AKilledReaderDoesNoHarm) {
  if (GetParam().process_name.empty()) GTEST_SKIP() << "one process only";
  auto owner = Make();
  auto driver = Make();
  auto target = MakeRegion(*owner, Kind::kForeign, 4 << 20, 1);
  auto peer = Connect(*driver, *owner);
  auto remote = peer->Import(target->region->key());
  ASSERT_TRUE(remote.ok());
  for (int i = 0; i < 4; ++i) {
    auto reader = TestPeer::Start(
        GetParam().process_name,
        GetParam().process_memory.empty() ? "host" : GetParam().process_memory,
        100, 1);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->Ask(absl::StrCat(
                  "read ", absl::BytesToHexString(owner->address()), " ",
                  absl::BytesToHexString(target->region->key()))),
              "reading");
    // A stopped one stops taking what it asked for, so much is under way.
    if (i % 2 == 1) (*reader)->Signal(SIGSTOP);
    (*reader)->Kill();
    LocalMemory local(1 << 20);
    ASSERT_EQ(GetNow(*peer, **remote, 1 << 20, local.span()), absl::OkStatus());
    EXPECT_EQ(Mismatch(local, 1, 1 << 20), -1);
  }
}

TEST_P(TransportConformance, AnIdlePeersDeathIsNoticed) {
  if (GetParam().process_name.empty()) GTEST_SKIP() << "one process only";
  auto remote = StartRemote(GetParam(), "host");
  ASSERT_TRUE(remote.ok()) << remote.status();
  EXPECT_TRUE(remote->peer->Health().ok());
  remote->process->Kill();
  const absl::Status health = AwaitDeath(*remote->peer, Patience());
  EXPECT_TRUE(absl::IsUnavailable(health)) << health;
}

TEST_P(TransportConformance, AStoppedPeerNeverOutlastsADeadline) {
  if (GetParam().process_name.empty()) GTEST_SKIP() << "one process only";
  auto started = StartRemote(GetParam(), "malloc");
  ASSERT_TRUE(started.ok()) << started.status();
  Remote& remote = *started;
  remote.process->Signal(SIGSTOP);
  const auto soon = [] {
    return base::Deadline::After(std::chrono::milliseconds(300));
  };
  // Some transports read a stopped peer's memory; all must come back.
  LocalMemory local(1 << 20);
  ASSERT_TRUE(
      remote.peer->Get(*remote.region, 0, local.span(), nullptr, 1).ok());
  ASSERT_TRUE(remote.peer
                  ->Gather(*remote.region,
                           {.modes = {{4096, 1024}}, .piece_bytes = 256},
                           local.span(), nullptr, 2)
                  .ok());
  const absl::Status flush = remote.peer->Flush(soon());
  EXPECT_TRUE(flush.ok() || absl::IsDeadlineExceeded(flush)) << flush;
  const absl::Status connect =
      remote.transport->Connect(remote.process->address(), "again", soon())
          .status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(connect)) << connect;
  const absl::Status import =
      remote.peer->Import(remote.process->key()).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(import)) << import;
  EXPECT_TRUE(remote.peer->Health().ok());

  // It goes on where it was.
  remote.process->Signal(SIGCONT);
  const auto statuses = Collect(*remote.peer, 2, Patience());
  EXPECT_THAT(statuses,
              testing::ElementsAre(testing::Pair(1, absl::OkStatus()),
                                   testing::Pair(2, absl::OkStatus())));
  EXPECT_TRUE(remote.peer->Import(remote.process->key()).ok());

  // Letting go of a stopped peer with work in flight ends as well.
  remote.process->Signal(SIGSTOP);
  ASSERT_TRUE(
      remote.peer->Get(*remote.region, 0, local.span(), nullptr, 3).ok());
  remote.region.reset();
  remote.peer.reset();
  remote.transport.reset();
}

}  // namespace
}  // namespace weft::transport
