#include "weft/transport/testing/fault_transport.h"

#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "weft/transport/inproc/inproc_transport.h"
#include "weft/transport/testing/pattern.h"

namespace weft::transport {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kBytes = 4000;

// An owner, and a peer of it through a FaultTransport over inproc.
class FaultTransportTest : public testing::Test {
 protected:
  FaultTransportTest() {
    buffer_ = *memory::Buffer::Allocate(memory::MemoryKind::kShared, kBytes);
    FillPattern(buffer_->span(), 1);
    region_ = *owner_->Register(buffer_->span(), buffer_.get());
    transport_ = MakeFaultTransport(MakeInprocTransport(), script_);
    peer_ = Connect("rank 3");
  }

  std::unique_ptr<Peer> Connect(const std::string& label) {
    return *transport_->Connect(owner_->address(), label,
                                base::Deadline::Infinite());
  }
  std::unique_ptr<RemoteRegion> Import(Peer& peer) {
    return *peer.Import(region_->key());
  }
  // Tags in the order in which they completed; stops when a poll is empty
  // twice, for inproc completes at once what it completes at all.
  std::vector<Completion> PollAll(Peer& peer) {
    std::vector<Completion> completions;
    for (int empty = 0; empty < 2;) {
      empty = peer.Poll(completions) == 0 ? empty + 1 : 0;
    }
    return completions;
  }
  static std::vector<OpTag> Tags(const std::vector<Completion>& completions) {
    std::vector<OpTag> tags;
    for (const Completion& completion : completions) {
      tags.push_back(completion.tag);
    }
    return tags;
  }

  std::shared_ptr<FaultScript> script_ = std::make_shared<FaultScript>();
  std::unique_ptr<Transport> owner_ = MakeInprocTransport();
  std::unique_ptr<memory::Buffer> buffer_;
  std::unique_ptr<Region> region_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Peer> peer_;
  std::vector<std::byte> local_ = std::vector<std::byte>(kBytes);
};

TEST_F(FaultTransportTest, PassesBytesWhenNothingIsScripted) {
  EXPECT_FALSE(transport_->capabilities().mapped);
  auto remote = Import(*peer_);
  EXPECT_EQ(remote->mapped(), nullptr);
  ASSERT_TRUE(peer_->Get(*remote, 0, absl::MakeSpan(local_), nullptr, 7).ok());
  EXPECT_EQ(peer_->in_flight(), 1);
  ASSERT_TRUE(peer_->Flush(base::Deadline::Infinite()).ok());
  const auto completions = PollAll(*peer_);
  ASSERT_THAT(Tags(completions), ElementsAre(7));
  EXPECT_TRUE(completions[0].status.ok());
  EXPECT_EQ(FindMismatch(local_, 1), -1);
  EXPECT_EQ(script_->struck(), 0);
}

TEST_F(FaultTransportTest, FlipsOneByteOfTheNthGet) {
  script_->Add({.kind = Fault::Kind::kFlipByte, .nth = 1, .byte_index = 5});
  auto remote = Import(*peer_);
  const auto first = absl::MakeSpan(local_).first(1000);
  const auto second = absl::MakeSpan(local_).subspan(1000, 1000);
  // A Put does not count: nothing comes back of it.
  ASSERT_TRUE(
      peer_->Put(*remote, 2000, buffer_->span().subspan(2000, 10), nullptr, 0)
          .ok());
  ASSERT_TRUE(peer_->Get(*remote, 0, first, nullptr, 1).ok());
  ASSERT_TRUE(peer_->Get(*remote, 1000, second, nullptr, 2).ok());
  for (const Completion& completion : PollAll(*peer_)) {
    EXPECT_TRUE(completion.status.ok());
  }
  EXPECT_EQ(FindMismatch(first, 1), -1);
  EXPECT_EQ(FindMismatch(second, 1, 1000), 5);
  second[5] ^= std::byte{0xff};
  EXPECT_EQ(FindMismatch(second, 1, 1000), -1);
  EXPECT_EQ(script_->struck(), 1);
}

TEST_F(FaultTransportTest, MovesOnlyAPartOfGetPutAndGather) {
  for (const Fault::Kind kind :
       {Fault::Kind::kSilentShort, Fault::Kind::kPartial}) {
    SCOPED_TRACE(static_cast<int>(kind));
    FillPattern(buffer_->span(), 1);
    auto remote = Import(*peer_);
    for (int i = 0; i < 3; ++i) script_->Add({.kind = kind, .bytes = 130});
    std::vector<std::byte> got(400);
    std::vector<std::byte> gathered(400);
    std::vector<std::byte> put(400, std::byte{0x77});
    ASSERT_TRUE(peer_->Get(*remote, 0, absl::MakeSpan(got), nullptr, 1).ok());
    ASSERT_TRUE(peer_
                    ->Gather(*remote,
                             {.modes = {{4, 1000}}, .piece_bytes = 100},
                             absl::MakeSpan(gathered), nullptr, 2)
                    .ok());
    ASSERT_TRUE(peer_->Put(*remote, 0, put, nullptr, 3).ok());
    const auto completions = PollAll(*peer_);
    ASSERT_EQ(completions.size(), 3u);
    for (const Completion& completion : completions) {
      EXPECT_EQ(completion.status.ok(), kind == Fault::Kind::kSilentShort);
    }
    EXPECT_TRUE(peer_->Health().ok());
    const std::vector<std::byte> zeros(270);
    EXPECT_EQ(FindMismatch(absl::MakeSpan(got).first(130), 1), -1);
    EXPECT_TRUE(absl::MakeConstSpan(got).subspan(130) ==
                absl::MakeConstSpan(zeros));
    EXPECT_EQ(FindMismatch(absl::MakeSpan(gathered).first(100), 1), -1);
    EXPECT_EQ(FindMismatch(absl::MakeSpan(gathered).subspan(100, 30), 1, 1000),
              -1);
    EXPECT_TRUE(absl::MakeConstSpan(gathered).subspan(130) ==
                absl::MakeConstSpan(zeros));
    EXPECT_EQ(buffer_->data()[129], std::byte{0x77});
    EXPECT_EQ(FindMismatch(buffer_->span().subspan(130), 1, 130), -1);
  }
}

TEST_F(FaultTransportTest, DropsOneCompletion) {
  script_->Add({.kind = Fault::Kind::kDrop, .nth = 1});
  auto remote = Import(*peer_);
  for (OpTag tag = 0; tag < 3; ++tag) {
    ASSERT_TRUE(
        peer_->Get(*remote, 0, absl::MakeSpan(local_), nullptr, tag).ok());
  }
  EXPECT_THAT(Tags(PollAll(*peer_)), ElementsAre(0, 2));
  EXPECT_EQ(peer_->in_flight(), 1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      peer_->Flush(base::Deadline::After(std::chrono::milliseconds(5)))));
}

TEST_F(FaultTransportTest, DelaysBehindLaterOperations) {
  script_->Add({.kind = Fault::Kind::kDelay, .nth = 1, .operations = 2});
  script_->Add({.kind = Fault::Kind::kDelay, .nth = 4, .operations = 99});
  auto remote = Import(*peer_);
  for (OpTag tag = 0; tag < 6; ++tag) {
    ASSERT_TRUE(
        peer_->Get(*remote, 0, absl::MakeSpan(local_), nullptr, tag).ok());
  }
  EXPECT_THAT(Tags(PollAll(*peer_)), ElementsAre(0, 2, 3, 1, 5, 4));
}

TEST_F(FaultTransportTest, APeerDiesAfterSoManyBytes) {
  script_->Add(
      {.kind = Fault::Kind::kPeerDeath, .peer_label = "rank 3", .bytes = 2500});
  auto other = Connect("rank 4");
  auto other_remote = Import(*other);
  auto remote = Import(*peer_);
  const auto piece = absl::MakeSpan(local_).first(1000);
  ASSERT_TRUE(peer_->Get(*remote, 0, piece, nullptr, 0).ok());
  ASSERT_TRUE(peer_->Get(*remote, 0, piece, nullptr, 1).ok());
  EXPECT_TRUE(PollAll(*peer_)[1].status.ok());
  ASSERT_TRUE(peer_->Get(*remote, 0, piece, nullptr, 2).ok());
  const absl::Status late = peer_->Get(*remote, 0, piece, nullptr, 3);
  EXPECT_TRUE(absl::IsUnavailable(late)) << late;
  EXPECT_THAT(std::string(late.message()), HasSubstr("rank 3"));
  const auto completions = PollAll(*peer_);
  ASSERT_THAT(Tags(completions), ElementsAre(2));
  EXPECT_TRUE(absl::IsUnavailable(completions[0].status));
  EXPECT_EQ(peer_->in_flight(), 0);
  EXPECT_TRUE(absl::IsUnavailable(peer_->Health()));
  EXPECT_TRUE(absl::IsUnavailable(peer_->Flush(base::Deadline::Infinite())));
  EXPECT_TRUE(absl::IsUnavailable(peer_->Import(region_->key()).status()));

  ASSERT_TRUE(
      other->Get(*other_remote, 0, absl::MakeSpan(local_), nullptr, 9).ok());
  EXPECT_TRUE(PollAll(*other)[0].status.ok());
}

TEST_F(FaultTransportTest, DamagesOneKey) {
  script_->Add({.kind = Fault::Kind::kCorruptKey, .nth = 1, .byte_index = 30});
  EXPECT_TRUE(peer_->Import(region_->key()).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(peer_->Import(region_->key()).status()));
  EXPECT_TRUE(peer_->Import(region_->key()).ok());
}

TEST_F(FaultTransportTest, ChecksBoundsItself) {
  auto remote = Import(*peer_);
  EXPECT_TRUE(absl::IsOutOfRange(
      peer_->Get(*remote, 1, absl::MakeSpan(local_), nullptr, 1)));
  EXPECT_TRUE(absl::IsOutOfRange(peer_->Put(*remote, 1, local_, nullptr, 1)));
  EXPECT_TRUE(absl::IsOutOfRange(
      peer_->Gather(*remote, {.modes = {{2, kBytes}}, .piece_bytes = 10},
                    absl::MakeSpan(local_).first(20), nullptr, 1)));
  EXPECT_EQ(peer_->in_flight(), 0);
}

}  // namespace
}  // namespace weft::transport
