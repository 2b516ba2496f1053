#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/session/control_reads_internal.h"
#include "weft/session/testing/plain_session.h"

namespace weft::session {
namespace {

using ::testing::HasSubstr;

using testing::BytesOf;
using testing::ColumnCut;
using testing::Expected;
using testing::MakeTransport;
using testing::Soon;

// A clock that counts round trips: one more has passed when all that wait for
// an answer have looked for it in vain, one of them twice. For a transport that
// answers at once by itself.
class RoundTrips {
 public:
  int64_t now() const {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  // When what is posted now is answered.
  int64_t Post() {
    const std::lock_guard lock(mutex_);
    looked_.clear();
    return now_ + 1;
  }
  void LookInVain(const void* who) {
    const std::lock_guard lock(mutex_);
    if (looked_.insert(who).second) return;
    looked_.clear();
    ++now_;
  }

 private:
  mutable std::mutex mutex_;
  int64_t now_ = 0;
  std::set<const void*> looked_;
};

class FarRegion final : public transport::RemoteRegion {
 public:
  explicit FarRegion(std::unique_ptr<transport::RemoteRegion> region)
      : near(std::move(region)) {}
  int64_t size_bytes() const override { return near->size_bytes(); }
  std::byte* mapped() const override { return nullptr; }

  const std::unique_ptr<transport::RemoteRegion> near;
};

// Answers a round trip after it was asked.
class FarPeer final : public transport::Peer {
 public:
  FarPeer(std::unique_ptr<transport::Peer> near,
          std::shared_ptr<RoundTrips> clock)
      : near_(std::move(near)), clock_(std::move(clock)) {}

  const std::string& label() const override { return near_->label(); }
  absl::StatusOr<std::unique_ptr<transport::RemoteRegion>> Import(
      std::string_view key) override {
    WEFT_ASSIGN_OR_RETURN(auto region, near_->Import(key));
    return std::make_unique<FarRegion>(std::move(region));
  }
  absl::Status Get(const transport::RemoteRegion& remote, int64_t offset,
                   absl::Span<std::byte> local, const transport::Region* region,
                   transport::OpTag tag) override {
    due_.push_back(clock_->Post());
    return near_->Get(*static_cast<const FarRegion&>(remote).near, offset,
                      local, region, tag);
  }
  absl::Status Put(const transport::RemoteRegion&, int64_t,
                   absl::Span<const std::byte>, const transport::Region*,
                   transport::OpTag) override {
    return absl::UnimplementedError("nobody puts");
  }
  absl::Status Gather(const transport::RemoteRegion& remote,
                      const transport::StridedPieces& pieces,
                      absl::Span<std::byte> local,
                      const transport::Region* region,
                      transport::OpTag tag) override {
    due_.push_back(clock_->Post());
    return near_->Gather(*static_cast<const FarRegion&>(remote).near, pieces,
                         local, region, tag);
  }
  int Poll(std::vector<transport::Completion>& completions) override {
    near_->Poll(ended_);
    size_t answered = 0;
    while (answered < std::min(due_.size(), ended_.size()) &&
           due_[answered] <= clock_->now()) {
      ++answered;
    }
    if (answered == 0 && !due_.empty()) clock_->LookInVain(this);
    const auto count = static_cast<std::ptrdiff_t>(answered);
    completions.insert(completions.end(), ended_.begin(),
                       ended_.begin() + count);
    ended_.erase(ended_.begin(), ended_.begin() + count);
    due_.erase(due_.begin(), due_.begin() + count);
    return static_cast<int>(answered);
  }
  int64_t in_flight() const override {
    return static_cast<int64_t>(due_.size());
  }
  absl::Status Flush(base::Deadline deadline) override {
    return near_->Flush(deadline);
  }
  absl::Status Health() override { return near_->Health(); }

 private:
  const std::unique_ptr<transport::Peer> near_;
  const std::shared_ptr<RoundTrips> clock_;
  std::vector<int64_t> due_;  // of each operation in flight
  std::vector<transport::Completion> ended_;
};

class FarTransport final : public transport::Transport {
 public:
  FarTransport(std::unique_ptr<transport::Transport> near,
               std::shared_ptr<RoundTrips> clock)
      : near_(std::move(near)), clock_(std::move(clock)) {}
  std::string_view name() const override { return near_->name(); }
  std::string description() const override { return near_->description(); }
  transport::Capabilities capabilities() const override {
    transport::Capabilities posted = near_->capabilities();
    posted.mapped = false;
    return posted;
  }
  const std::string& address() const override { return near_->address(); }
  absl::StatusOr<std::unique_ptr<transport::Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer* buffer) override {
    return near_->Register(memory, buffer);
  }
  absl::StatusOr<std::unique_ptr<transport::Peer>> Connect(
      std::string_view address, std::string label,
      base::Deadline deadline) override {
    WEFT_ASSIGN_OR_RETURN(auto peer,
                          near_->Connect(address, std::move(label), deadline));
    return std::make_unique<FarPeer>(std::move(peer), clock_);
  }

 private:
  const std::unique_ptr<transport::Transport> near_;
  const std::shared_ptr<RoundTrips> clock_;
};

class ControlReadsTest : public testing::PlainSession {
 protected:
  void WrapTransport(ReceiverOptions& options) {
    auto near = MakeTransport(GetParam(), testing::kEngineGpu);
    options.transports = {
        std::make_shared<FarTransport>(std::move(near), clock_)};
  }

  // Of all publishers.
  std::vector<std::unique_ptr<SourceLink>> OpenLinks(
      std::shared_ptr<transport::Transport> transport) {
    ReceiverOptions options;
    options.transports = {std::move(transport)};
    Engine engine = StartEngine(ColumnCut(kRows, kCols, 0, kCols));
    const auto workers = *store_->ListWorkers("m", Soon());
    const auto reader = std::find_if(
        workers.begin(), workers.end(), [](const catalog::WorkerRecord& each) {
          return each.info.role == catalog::Role::kReceiver;
        });
    const auto lease =
        store_->AcquireNewestLease(reader->worker_id, nullptr, Soon());
    EXPECT_TRUE(lease.ok()) << lease.status();
    const auto set = store_->GetSources("m", lease->lease_id, Soon());
    EXPECT_TRUE(set.ok()) << set.status();
    std::vector<std::unique_ptr<SourceLink>> links;
    for (const catalog::SourceRecord& source : set->sources) {
      auto link =
          SourceLink::Open(source, absl::StrCat("publisher rank ", source.rank),
                           options, Soon());
      EXPECT_TRUE(link.ok()) << link.status();
      links.push_back(*std::move(link));
    }
    return links;
  }

  std::shared_ptr<RoundTrips> clock_ = std::make_shared<RoundTrips>();
};

// A look at the words of four sources that are 80 ms away took 320 ms, and so
// did their tables.
TEST_P(ControlReadsTest, WordsAndTablesOfAllSourcesTakeARoundTripEach) {
  StartTrainers(4);
  int64_t last = 0;
  std::vector<std::pair<std::string, int64_t>> took;
  Engine engine = StartEngine(
      ColumnCut(kRows, kCols, 0, kCols), /*faulty=*/false,
      [&](ReceiverOptions& options) {
        WrapTransport(options);
        options.on_phase = [&](const RefitPhase& phase) {
          const int64_t now = clock_->now();
          if (phase.name.starts_with("epoch") || phase.name.ends_with("tables"))
            took.emplace_back(phase.name, now - last);
          last = now;
        };
      });
  PublishAll(1);
  const auto report = engine.receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->peers.size(), 4u);
  EXPECT_EQ(BytesOf(engine.owned), Expected(engine.placement, 1));
  EXPECT_THAT(took,
              ::testing::ElementsAre(::testing::Pair("epoch words before", 1),
                                     ::testing::Pair("digest tables", 1),
                                     ::testing::Pair("epoch words after", 1)));
}

TEST_P(ControlReadsTest, ManyReadsOfALinkAreUnderWayAtOnce) {
  StartTrainers(3);
  PublishAll(1);
  const auto links = OpenLinks(std::make_shared<FarTransport>(
      MakeTransport(GetParam(), testing::kEngineGpu), clock_));
  constexpr size_t kReads = 100;
  const int64_t first = clock_->now();
  std::vector<std::vector<std::byte>> piece_wise(links.size());
  std::vector<std::vector<std::byte>> at_once(links.size());
  std::vector<LinkReads> pieces;
  std::vector<LinkReads> wholes;
  for (size_t i = 0; i < links.size(); ++i) {
    const int64_t begin = links[i]->binding().digest_table_offset_bytes;
    piece_wise[i].resize(kReads);
    at_once[i].resize(kReads);
    pieces.push_back({links[i].get()});
    for (size_t at = 0; at < kReads; ++at) {
      pieces[i].reads.push_back({begin + static_cast<int64_t>(at),
                                 absl::MakeSpan(&piece_wise[i][at], 1)});
    }
    wholes.push_back({links[i].get(), {{begin, absl::MakeSpan(at_once[i])}}});
  }
  EXPECT_EQ(AllRead(ReadFromAll(pieces, Soon())), absl::OkStatus());
  EXPECT_EQ(clock_->now() - first, 4);  // 32 at a time
  EXPECT_EQ(AllRead(ReadFromAll(wholes, Soon())), absl::OkStatus());
  EXPECT_EQ(clock_->now() - first, 5);
  EXPECT_EQ(piece_wise, at_once);
  EXPECT_THAT(at_once[0], ::testing::Contains(::testing::Ne(std::byte{0})));
}

TEST_P(ControlReadsTest, ReadsThatFailOrDoNotEndAreToldByLink) {
  StartTrainers(4);
  PublishAll(1);
  const auto script = std::make_shared<transport::FaultScript>();
  const auto links = OpenLinks(transport::MakeFaultTransport(
      MakeTransport(GetParam(), testing::kEngineGpu), script));
  script->Add(
      {transport::Fault::Kind::kDrop, /*peer_label=*/"publisher rank 1"});
  script->Add(
      {transport::Fault::Kind::kPartial, /*peer_label=*/"publisher rank 2"});
  std::vector<SourceLink*> all;
  for (const auto& link : links) all.push_back(link.get());
  const auto words = ReadEpochWords(all, Soon());
  ASSERT_EQ(words.size(), 4u);
  EXPECT_TRUE(words[0].ok()) << words[0].status();
  EXPECT_TRUE(words[3].ok()) << words[3].status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(words[1].status()));
  EXPECT_TRUE(absl::IsUnavailable(words[2].status()));
  EXPECT_EQ(*words[0], *words[3]);
  const absl::Status told =
      AllRead(std::vector<absl::Status>{words[0].status(), words[1].status(),
                                        words[2].status(), words[3].status()});
  // The one that failed says what to do: another may serve.
  EXPECT_TRUE(absl::IsUnavailable(told)) << told;
  EXPECT_THAT(std::string(told.message()),
              HasSubstr("deadline passed while reading from publisher rank 1"));
  // Its answer may come, and is not one to what is asked later.
  const auto again = ReadEpochWords(all, Soon());
  EXPECT_TRUE(absl::IsUnavailable(again[1].status()));
  EXPECT_THAT(std::string(again[1].status().message()),
              HasSubstr("have not ended"));
  EXPECT_EQ(*again[2], *words[0]);
}

INSTANTIATE_TEST_SUITE_P(Transports, ControlReadsTest,
                         ::testing::Values("inproc"),
                         [](const auto& param_info) {
                           return param_info.param;
                         });

}  // namespace
}  // namespace weft::session
