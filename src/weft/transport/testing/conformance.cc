#include "weft/transport/testing/conformance.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "gmock/gmock.h"
#include "weft/transport/testing/pattern.h"

namespace weft::transport {

// A leaf's other tests are linked with the suite and do not run it.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportConformance);

void TransportConformance::SetUp() {
  if (GetParam().unavailable != nullptr) {
    const absl::Status status = GetParam().unavailable();
    if (!status.ok()) GTEST_SKIP() << status.message();
  }
  TheCasePlaces() = {};
  if (GetParam().places != nullptr) TheCasePlaces() = GetParam().places();
}

std::unique_ptr<Transport> TransportConformance::Make() {
  absl::StatusOr<std::unique_ptr<Transport>> made = GetParam().make();
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

std::unique_ptr<Peer> TransportConformance::Connect(Transport& from,
                                                    const Transport& to,
                                                    const std::string& label) {
  absl::StatusOr<std::unique_ptr<Peer>> peer =
      from.Connect(to.address(), label, Patience());
  EXPECT_TRUE(peer.ok()) << peer.status();
  return peer.ok() ? *std::move(peer) : nullptr;
}

std::map<OpTag, absl::Status> Collect(Peer& peer, size_t count,
                                      base::Deadline deadline) {
  std::map<OpTag, absl::Status> statuses;
  std::vector<Completion> completions;
  while (statuses.size() < count && !deadline.Passed()) {
    completions.clear();
    const int appended = peer.Poll(completions);
    EXPECT_EQ(appended, static_cast<int>(completions.size()));
    for (const Completion& completion : completions) {
      const bool is_new =
          statuses.emplace(completion.tag, completion.status).second;
      EXPECT_TRUE(is_new) << "tag " << completion.tag << " came twice";
    }
  }
  return statuses;
}

absl::Status RunOne(Peer& peer,
                    const std::function<absl::Status(OpTag)>& post) {
  constexpr OpTag kTag = 0xfeedface;
  if (absl::Status status = post(kTag); !status.ok()) return status;
  const auto statuses =
      Collect(peer, 1, base::Deadline::After(kConformancePatience));
  if (statuses.empty()) return absl::DeadlineExceededError("no completion");
  EXPECT_EQ(statuses.begin()->first, kTag);
  return statuses.begin()->second;
}

absl::Status GetNow(Peer& peer, const RemoteRegion& remote, int64_t offset,
                    absl::Span<std::byte> local) {
  return RunOne(peer, [&](OpTag tag) {
    return peer.Get(remote, offset, local, nullptr, tag);
  });
}

absl::Status PutNow(Peer& peer, const RemoteRegion& remote, int64_t offset,
                    absl::Span<const std::byte> local) {
  return RunOne(peer, [&](OpTag tag) {
    return peer.Put(remote, offset, local, nullptr, tag);
  });
}

absl::Status GatherNow(Peer& peer, const RemoteRegion& remote,
                       const StridedPieces& pieces,
                       absl::Span<std::byte> local) {
  return RunOne(peer, [&](OpTag tag) {
    return peer.Gather(remote, pieces, local, nullptr, tag);
  });
}

absl::Status AwaitDeath(Peer& peer, base::Deadline deadline) {
  absl::Status health = peer.Health();
  while (health.ok() && !deadline.Passed()) health = peer.Health();
  return health;
}

namespace {

using testing::HasSubstr;

std::vector<Kind> Kinds(const Transport& transport) {
  if (TheCasePlaces().region_device != memory::kHostMemory) {
    return {Kind::kForeign};
  }
  if (transport.capabilities().foreign_memory) {
    return {Kind::kShared, Kind::kHost, Kind::kForeign};
  }
  return {Kind::kShared, Kind::kHost};
}

std::unique_ptr<RemoteRegion> Import(Peer& peer, const Region& region) {
  auto remote = peer.Import(region.key());
  EXPECT_TRUE(remote.ok()) << remote.status();
  return remote.ok() ? *std::move(remote) : nullptr;
}

// The packed bytes that a gather over the pattern must give, by counting.
std::vector<std::byte> GatherOracle(const StridedPieces& pieces,
                                    uint64_t seed) {
  std::vector<int64_t> starts{pieces.offset_bytes};
  for (const StridedPieces::Mode& mode : pieces.modes) {
    std::vector<int64_t> next;
    for (const int64_t start : starts) {
      for (int64_t i = 0; i < mode.extent; ++i) {
        next.push_back(start + i * mode.stride_bytes);
      }
    }
    starts = std::move(next);
  }
  std::vector<std::byte> packed;
  for (const int64_t start : starts) {
    for (int64_t b = 0; b < pieces.piece_bytes; ++b) {
      packed.push_back(PatternByte(seed, start + b));
    }
  }
  return packed;
}

TEST_P(TransportConformance, NamesItself) {
  auto transport = Make();
  EXPECT_FALSE(transport->name().empty());
  EXPECT_THAT(transport->description(),
              HasSubstr(std::string(transport->name())));
  EXPECT_FALSE(transport->address().empty());
  EXPECT_NE(transport->address(), Make()->address());
  auto peer = Connect(*transport, *transport, "the label");
  ASSERT_NE(peer, nullptr);
  EXPECT_EQ(peer->label(), "the label");
  EXPECT_EQ(peer->in_flight(), 0);
  EXPECT_TRUE(peer->Health().ok());
  EXPECT_TRUE(peer->Flush(Patience()).ok());
}

TEST_P(TransportConformance, MapsSharedRegions) {
  auto owner = Make();
  auto driver = Make();
  if (!owner->capabilities().mapped) {
    GTEST_SKIP() << owner->name()
                 << " reads and writes on request only: no region is mapped";
  }
  auto buffer = memory::Buffer::Allocate(memory::MemoryKind::kShared, 50000);
  ASSERT_TRUE(buffer.ok());
  Fill((*buffer)->span(), 1);
  auto whole = owner->Register((*buffer)->span(), buffer->get());
  auto part =
      owner->Register((*buffer)->span().subspan(4999, 20001), buffer->get());
  ASSERT_TRUE(whole.ok() && part.ok());
  auto peer = Connect(*driver, *owner);
  auto remote_whole = Import(*peer, **whole);
  auto remote_part = Import(*peer, **part);
  ASSERT_NE(remote_whole->mapped(), nullptr);
  ASSERT_NE(remote_part->mapped(), nullptr);
  EXPECT_EQ(remote_part->size_bytes(), 20001);
  EXPECT_EQ(Mismatch({remote_whole->mapped(), 50000}, 1), -1);
  EXPECT_EQ(Mismatch({remote_part->mapped(), 20001}, 1, 4999), -1);
  remote_part->mapped()[20000] = std::byte{0x5a};
  EXPECT_EQ((*buffer)->data()[24999], std::byte{0x5a});
  // What was mapped stays mapped: the bytes of a peer that is gone read on.
  Fill((*buffer)->span(), 2);
  part->reset();
  whole->reset();
  owner.reset();
  buffer->reset();
  EXPECT_EQ(Mismatch({remote_whole->mapped(), 50000}, 2), -1);
}

TEST_P(TransportConformance, GetsAndPutsAnySizeAtOddOffsets) {
  auto owner = Make();
  auto driver = Make();
  auto peer = Connect(*driver, *owner);
  constexpr int64_t kBytes = (int64_t{3} << 20) + 13;
  for (const Kind kind : Kinds(*owner)) {
    auto target = MakeRegion(*owner, kind, kBytes, 7);
    auto remote = Import(*peer, *target->region);
    ASSERT_NE(remote, nullptr);
    EXPECT_EQ(remote->size_bytes(), kBytes);
    for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{64},
                                int64_t{4096}, (int64_t{1} << 20) + 3}) {
      for (const int64_t offset :
           {int64_t{0}, int64_t{1}, int64_t{4097}, kBytes - bytes}) {
        SCOPED_TRACE(testing::Message() << bytes << " at " << offset);
        LocalMemory local(static_cast<size_t>(bytes) + 2, std::byte{0xee});
        const auto inner = local.span().subspan(1, local.size() - 2);
        ASSERT_EQ(GetNow(*peer, *remote, offset, inner), absl::OkStatus());
        ASSERT_EQ(Mismatch(inner, 7, offset), -1);
        const std::vector<std::byte> around = ToHost(local);
        ASSERT_EQ(around.front(), std::byte{0xee});
        ASSERT_EQ(around.back(), std::byte{0xee});

        Fill(inner, 8);
        ASSERT_EQ(PutNow(*peer, *remote, offset, inner), absl::OkStatus());
        const auto written = target->memory.subspan(static_cast<size_t>(offset),
                                                    static_cast<size_t>(bytes));
        ASSERT_EQ(Mismatch(written, 8), -1);
        Fill(written, 7, offset);
        ASSERT_EQ(Mismatch(target->memory, 7), -1) << "wrote elsewhere";
      }
    }
    EXPECT_EQ(peer->in_flight(), 0);
  }
}

TEST_P(TransportConformance, UsesTheLocalRegistrationItIsGiven) {
  auto owner = Make();
  auto driver = Make();
  auto peer = Connect(*driver, *owner);
  auto target = MakeRegion(*owner, Kind::kHost, 300000, 1);
  auto local = MakeLocalRegion(*driver, Kind::kShared, 300000, 2);
  auto remote = Import(*peer, *target->region);
  ASSERT_EQ(RunOne(*peer,
                   [&](OpTag tag) {
                     return peer->Get(*remote, 0, local->memory,
                                      local->region.get(), tag);
                   }),
            absl::OkStatus());
  EXPECT_EQ(Mismatch(local->memory, 1), -1);
  Fill(local->memory, 3);
  ASSERT_EQ(RunOne(*peer,
                   [&](OpTag tag) {
                     return peer->Put(*remote, 0, local->memory,
                                      local->region.get(), tag);
                   }),
            absl::OkStatus());
  EXPECT_EQ(Mismatch(target->memory, 3), -1);
}

TEST_P(TransportConformance, ThousandsOfSmallGetsInAWindow) {
  auto owner = Make();
  auto driver = Make();
  auto peer = Connect(*driver, *owner);
  constexpr int64_t kPieces = 5000;
  constexpr int64_t kPieceBytes = 72;
  constexpr int64_t kStrideBytes = 100;
  constexpr int64_t kWindow = 64;
  for (const Kind kind : Kinds(*owner)) {
    auto target = MakeRegion(*owner, kind, kPieces * kStrideBytes, 5);
    auto remote = Import(*peer, *target->region);
    LocalMemory local(kPieces * kPieceBytes);
    std::vector<Completion> completions;
    std::vector<int> seen(kPieces);
    int64_t posted = 0;
    const base::Deadline deadline = Patience();
    while (static_cast<int64_t>(completions.size()) < kPieces &&
           !deadline.Passed()) {
      while (posted < kPieces && peer->in_flight() < kWindow) {
        const auto piece = local.span().subspan(
            static_cast<size_t>(posted * kPieceBytes), kPieceBytes);
        ASSERT_TRUE(peer->Get(*remote, posted * kStrideBytes, piece, nullptr,
                              static_cast<OpTag>(posted))
                        .ok());
        ++posted;
      }
      peer->Poll(completions);
    }
    for (const Completion& completion : completions) {
      EXPECT_TRUE(completion.status.ok()) << completion.status;
      ASSERT_LT(completion.tag, static_cast<OpTag>(kPieces));
      ++seen[completion.tag];
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), kPieces);
    for (int64_t i = 0; i < kPieces; ++i) {
      const auto piece = local.span().subspan(
          static_cast<size_t>(i * kPieceBytes), kPieceBytes);
      ASSERT_EQ(Mismatch(piece, 5, i * kStrideBytes), -1) << i;
    }
  }
}

TEST_P(TransportConformance, PutsAreAtThePeerAfterFlush) {
  auto owner = Make();
  auto driver = Make();
  auto peer = Connect(*driver, *owner);
  auto target = MakeRegion(*owner, Kind::kHost, 1 << 20, 1);
  auto remote = Import(*peer, *target->region);
  LocalMemory local(1 << 20);
  Fill(local.span(), 2);
  constexpr size_t kPieceBytes = 1 << 13;
  const size_t count = local.size() / kPieceBytes;
  for (size_t i = 0; i < count; ++i) {
    ASSERT_TRUE(peer->Put(*remote, static_cast<int64_t>(i * kPieceBytes),
                          local.span().subspan(i * kPieceBytes, kPieceBytes),
                          nullptr, i)
                    .ok());
  }
  ASSERT_EQ(peer->Flush(Patience()), absl::OkStatus());
  EXPECT_EQ(Mismatch(target->memory, 2), -1);
  const auto statuses = Collect(*peer, count, Patience());
  EXPECT_EQ(statuses.size(), count);
  for (const auto& [tag, status] : statuses) EXPECT_TRUE(status.ok()) << status;
}

TEST_P(TransportConformance, GathersPiecesInOrder) {
  auto owner = Make();
  auto driver = Make();
  if (!owner->capabilities().gather) GTEST_SKIP() << "gathers nothing";
  auto peer = Connect(*driver, *owner);
  constexpr int64_t kBytes = int64_t{6} << 20;
  const std::vector<StridedPieces> cases = {
      {.offset_bytes = 5, .piece_bytes = 1000},
      {.offset_bytes = 0, .modes = {{10, 64}}, .piece_bytes = 64},
      {.offset_bytes = 3, .modes = {{9000, 300}}, .piece_bytes = 256},
      {.offset_bytes = 1,
       .modes = {{7, 100000}, {50, 512}},
       .piece_bytes = 128},
      {.offset_bytes = 9,
       .modes = {{3, 1000000}, {20, 4000}, {3, 1000}},
       .piece_bytes = 333},
      {.offset_bytes = kBytes - 100, .modes = {{5, -1000}}, .piece_bytes = 100},
      {.offset_bytes = 0, .modes = {{4, 0}}, .piece_bytes = 77},
      {.offset_bytes = 17, .modes = {{2, 3000000}}, .piece_bytes = 2500000},
      {.offset_bytes = 0, .modes = {{0, 5}}, .piece_bytes = 100},
  };
  for (const Kind kind : Kinds(*owner)) {
    auto target = MakeRegion(*owner, kind, kBytes, 11);
    auto remote = Import(*peer, *target->region);
    for (const StridedPieces& pieces : cases) {
      const std::vector<std::byte> expected = GatherOracle(pieces, 11);
      LocalMemory local(expected.size());
      ASSERT_EQ(GatherNow(*peer, *remote, pieces, local.span()),
                absl::OkStatus());
      ASSERT_TRUE(ToHost(local) == expected);
    }
  }
}

TEST_P(TransportConformance, ManyRandomGathersInAWindow) {
  auto owner = Make();
  auto driver = Make();
  if (!owner->capabilities().gather) GTEST_SKIP() << "gathers nothing";
  const auto seed =
      static_cast<unsigned>(testing::UnitTest::GetInstance()->random_seed());
  SCOPED_TRACE(testing::Message() << "--gtest_random_seed=" << seed);
  std::mt19937 random(seed);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  auto peer = Connect(*driver, *owner);
  constexpr int64_t kBytes = 500000;
  auto target = MakeRegion(*owner, Kind::kForeign, kBytes, 3);
  auto remote = Import(*peer, *target->region);
  std::vector<StridedPieces> wanted;
  std::vector<LocalMemory> local;
  for (int i = 0; i < 300; ++i) {
    StridedPieces pieces{.offset_bytes = pick(0, 1000),
                         .piece_bytes = pick(1, 300)};
    const int64_t rank = pick(0, 3);
    for (int64_t mode = 0; mode < rank; ++mode) {
      pieces.modes.push_back({pick(1, 12), pick(0, 10000)});
    }
    wanted.push_back(pieces);
    local.emplace_back(static_cast<size_t>(pieces.packed_bytes()));
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_EQ(peer->Gather(*remote, wanted[i], local[i].span(), nullptr, i),
              absl::OkStatus());
  }
  EXPECT_EQ(peer->in_flight(), static_cast<int64_t>(wanted.size()));
  const auto statuses = Collect(*peer, wanted.size(), Patience());
  ASSERT_EQ(statuses.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_EQ(statuses.at(i), absl::OkStatus());
    ASSERT_TRUE(ToHost(local[i]) == GatherOracle(wanted[i], 3)) << i;
  }
}

TEST_P(TransportConformance, ChecksBoundsBeforeAnythingMoves) {
  auto owner = Make();
  auto driver = Make();
  auto peer = Connect(*driver, *owner);
  auto target = MakeRegion(*owner, Kind::kHost, 1000, 1);
  auto remote = Import(*peer, *target->region);
  LocalMemory local(100);
  const auto span = local.span();
  for (const int64_t offset :
       {int64_t{901}, int64_t{-1}, int64_t{1000}, INT64_MAX, INT64_MIN}) {
    const absl::Status get = peer->Get(*remote, offset, span, nullptr, 1);
    EXPECT_TRUE(absl::IsOutOfRange(get)) << get;
    EXPECT_THAT(std::string(get.message()), HasSubstr("publisher rank 3"));
    EXPECT_TRUE(
        absl::IsOutOfRange(peer->Put(*remote, offset, span, nullptr, 1)));
  }
  if (owner->capabilities().gather) {
    const auto gather = [&](const StridedPieces& pieces) {
      return peer->Gather(*remote, pieces, span, nullptr, 1).code();
    };
    EXPECT_EQ(gather({.modes = {{10, 111}}, .piece_bytes = 10}),
              absl::StatusCode::kOutOfRange);
    EXPECT_EQ(gather({.modes = {{10, 100}}, .piece_bytes = 9}),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(gather({.modes = {{10, INT64_MAX}}, .piece_bytes = 10}),
              absl::StatusCode::kOutOfRange);
  }
  EXPECT_EQ(peer->in_flight(), 0);
  EXPECT_EQ(Mismatch(target->memory, 1), -1);
}

TEST_P(TransportConformance, RefusesDamagedAndForeignKeysAndAddresses) {
  auto owner = Make();
  auto other = Make();
  auto driver = Make();
  auto peer = Connect(*driver, *owner);
  auto target = MakeRegion(*owner, Kind::kHost, 1000, 1);
  auto foreign = MakeRegion(*other, Kind::kHost, 1000, 2);
  const std::string key = target->region->key();
  for (size_t kept = 0; kept < key.size(); ++kept) {
    EXPECT_TRUE(
        absl::IsInvalidArgument(peer->Import(key.substr(0, kept)).status()));
  }
  for (size_t byte = 0; byte < key.size(); ++byte) {
    std::string damaged = key;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 0x10);
    EXPECT_FALSE(peer->Import(damaged).ok());
  }
  EXPECT_TRUE(absl::IsNotFound(peer->Import(foreign->region->key()).status()));
  EXPECT_FALSE(peer->Import(owner->address()).ok());
  EXPECT_TRUE(peer->Import(key).ok());

  const std::string address = owner->address();
  for (const std::string& wrong :
       {std::string(), std::string("nonsense"), key,
        address.substr(0, address.size() - 1), address + "x"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        driver->Connect(wrong, "peer", Patience()).status()));
  }
}

TEST_P(TransportConformance, RefusesRegionsThatTheirOwnerFreed) {
  auto owner = Make();
  auto driver = Make();
  auto peer = Connect(*driver, *owner);
  auto target = MakeRegion(*owner, Kind::kHost, 100000, 1);
  const std::string key = target->region->key();
  auto remote = Import(*peer, *target->region);
  ASSERT_NE(remote, nullptr);
  target->region.reset();

  const absl::Status import = peer->Import(key).status();
  EXPECT_TRUE(absl::IsNotFound(import)) << import;
  EXPECT_THAT(std::string(import.message()), HasSubstr("publisher rank 3"));
  LocalMemory local(100000);
  if (owner->capabilities().gather) {
    EXPECT_TRUE(absl::IsNotFound(
        GatherNow(*peer, *remote, {.modes = {{10, 1000}}, .piece_bytes = 100},
                  local.span().first(1000))));
  }
  if (GetParam().refuses_get_after_free) {
    EXPECT_TRUE(absl::IsNotFound(GetNow(*peer, *remote, 0, local.span())));
    EXPECT_TRUE(absl::IsNotFound(PutNow(*peer, *remote, 0, local)));
    EXPECT_EQ(Mismatch(target->memory, 1), -1);
  }
  // The same memory again is another region.
  auto again = owner->Register(target->memory, target->buffer.get());
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(absl::IsNotFound(peer->Import(key).status()));
  auto remote_again = Import(*peer, **again);
  ASSERT_NE(remote_again, nullptr);
  EXPECT_EQ(GetNow(*peer, *remote_again, 0, local.span()), absl::OkStatus());
  EXPECT_EQ(Mismatch(local, 1), -1);
}

TEST_P(TransportConformance, RefusesMemoryOutsideItsBuffer) {
  auto owner = Make();
  auto buffer = memory::Buffer::Allocate(memory::MemoryKind::kShared, 1000);
  ASSERT_TRUE(buffer.ok());
  std::vector<std::byte> elsewhere(10);
  EXPECT_TRUE(absl::IsInvalidArgument(
      owner->Register(absl::MakeSpan(elsewhere), buffer->get()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      owner->Register({(*buffer)->data(), 1001}, buffer->get()).status()));
}

TEST_P(TransportConformance, ServesEmptyAndManyRegions) {
  auto owner = Make();
  auto driver = Make();
  auto peer = Connect(*driver, *owner);
  std::vector<std::unique_ptr<PatternedRegion>> regions;
  for (int i = 0; i < 150; ++i) {
    regions.push_back(MakeRegion(*owner,
                                 i % 2 == 0 ? Kind::kShared : Kind::kHost,
                                 i * 37, static_cast<uint64_t>(i)));
  }
  std::vector<std::unique_ptr<RemoteRegion>> remotes;
  for (const auto& region : regions) {
    remotes.push_back(Import(*peer, *region->region));
    ASSERT_NE(remotes.back(), nullptr);
  }
  for (size_t i = 0; i < regions.size(); ++i) {
    ASSERT_EQ(remotes[i]->size_bytes(), static_cast<int64_t>(i) * 37);
    LocalMemory local(i * 37);
    ASSERT_EQ(GetNow(*peer, *remotes[i], 0, local.span()), absl::OkStatus());
    ASSERT_EQ(Mismatch(local, i), -1) << i;
  }
}

TEST_P(TransportConformance, KeepsTwoPeersApart) {
  auto first = Make();
  auto second = Make();
  auto driver = Make();
  auto first_peer = Connect(*driver, *first, "first");
  auto second_peer = Connect(*driver, *second, "second");
  auto first_region = MakeRegion(*first, Kind::kHost, 200000, 1);
  auto second_region = MakeRegion(*second, Kind::kHost, 200000, 2);
  auto first_remote = Import(*first_peer, *first_region->region);
  auto second_remote = Import(*second_peer, *second_region->region);
  constexpr size_t kGets = 50;
  LocalMemory first_local(200000);
  LocalMemory second_local(200000);
  for (size_t i = 0; i < kGets; ++i) {
    const auto offset = static_cast<int64_t>(i * 4000);
    ASSERT_TRUE(first_peer
                    ->Get(*first_remote, offset,
                          first_local.span().subspan(i * 4000, 4000), nullptr,
                          i)
                    .ok());
    ASSERT_TRUE(second_peer
                    ->Get(*second_remote, offset,
                          second_local.span().subspan(i * 4000, 4000), nullptr,
                          i)
                    .ok());
  }
  EXPECT_EQ(Collect(*second_peer, kGets, Patience()).size(), kGets);
  EXPECT_EQ(Collect(*first_peer, kGets, Patience()).size(), kGets);
  EXPECT_EQ(Mismatch(first_local, 1), -1);
  EXPECT_EQ(Mismatch(second_local, 2), -1);

  // One dies; the other does not notice.
  first_region->region.reset();
  first.reset();
  EXPECT_THAT(std::string(AwaitDeath(*first_peer, Patience()).message()),
              HasSubstr("first"));
  EXPECT_TRUE(second_peer->Health().ok());
  EXPECT_EQ(GetNow(*second_peer, *second_remote, 0, second_local.span()),
            absl::OkStatus());
}

}  // namespace
}  // namespace weft::transport
