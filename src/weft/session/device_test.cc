// What a session refuses of memory on GPUs; that refits through it arrive is in
// refit_test.cc and quantise_test.cc, transport "cuda".
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/session/publisher.h"
#include "weft/session/receiver.h"
#include "weft/session/testing/fake_gpus.h"

namespace weft::session {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kBytes = 100 * 70 * 2;

base::Deadline Soon() { return base::Deadline::After(std::chrono::minutes(2)); }

manifest::Placement OneTensor() {
  manifest::Placement placement;
  placement.layout_spec = "whole";
  placement.tensors = {{"w", tensor::DType::kBF16, {100, 70}}};
  layout::StoredTensor stored{"w", tensor::DType::kBF16, {100, 70}, {}, {}};
  stored.fragments.push_back(
      {0, *layout::IndexMap::RowMajor(*tensor::Box::OfShape({100, 70}),
                                      stored.shape, {0, 0})});
  placement.stored = {stored};
  return placement;
}

class DeviceSession : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Publisher>> Publish() {
    PublisherOptions options;
    options.model = "m";
    options.placement = OneTensor();
    options.memory = trainer_.memory;
    options.catalog = store_;
    options.device = device_;
    options.transports.push_back(
        testing::MakeFakeGpuTransport(testing::kTrainerGpu));
    return Publisher::Create(std::move(options), Soon());
  }
  absl::StatusOr<std::unique_ptr<Receiver>> Receive(int gpu) {
    ReceiverOptions options;
    options.model = "m";
    options.placement = OneTensor();
    options.memory = engine_.memory;
    options.catalog = store_;
    options.execute.device = device_;
    options.measure_bound = true;
    options.transports.push_back(testing::MakeFakeGpuTransport(gpu));
    return Receiver::Create(std::move(options), Soon());
  }

  std::shared_ptr<catalog::CatalogStore> store_ = catalog::MakeMemoryStore({});
  OwnedRankMemory trainer_ =
      testing::AllocateUnder("cuda", OneTensor(), testing::kTrainerGpu);
  OwnedRankMemory engine_ =
      testing::AllocateUnder("cuda", OneTensor(), testing::kEngineGpu);
  execute::DeviceOptions device_ = testing::FakeGpuOptions();
};

TEST_F(DeviceSession, MemoryThatWasAllocatedAgainIsNoticedAtBothEnds) {
  const auto publisher = *Publish();
  ASSERT_TRUE(publisher->Publish(1, Soon()).ok());
  const auto receiver = *Receive(testing::kEngineGpu);
  const auto report = receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->bound_bytes_per_second, 0);
  EXPECT_THAT(report->bound_name, HasSubstr("copy engines"));

  testing::FakeGpus().Adopt(testing::kEngineGpu, *engine_.buffer);
  const auto torn = receiver->Refit(nullptr, false, Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(torn.status())) << torn.status();
  EXPECT_THAT(std::string(torn.status().message()),
              HasSubstr("freed and allocated again"));

  testing::FakeGpus().Adopt(testing::kTrainerGpu, *trainer_.buffer);
  const auto refused = publisher->Publish(2, Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status()));
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("freed and allocated again"));
}

// The framework has queued a step and has not done it when Publish is called.
TEST_F(DeviceSession, PublishedIsWhatTheStreamWillHaveWritten) {
  constexpr uintptr_t kTrainerStream = 5;
  device_.stream = kTrainerStream;
  const auto publisher = *Publish();
  device_.stream.reset();
  const auto receiver = *Receive(testing::kEngineGpu);
  const absl::Span<std::byte> weights = trainer_.buffer->span();
  for (const uint8_t value : {1, 2}) {
    ASSERT_TRUE(publisher->BeginUpdate(Soon()).ok());
    testing::FakeGpus().QueueInStream(kTrainerStream, [weights, value] {
      std::memset(weights.data(), value, weights.size());
    });
    ASSERT_TRUE(publisher->Publish(value, Soon()).ok());
    std::memset(engine_.buffer->data(), 0xA5, engine_.buffer->span().size());
    const auto report = receiver->Refit(nullptr, false, Soon());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(absl::MakeSpan(StoredBase(engine_.memory, 0), kBytes),
                Each(std::byte{value}));
  }
}

// Kernels of the engine's last step still read when Refit is called.
TEST_F(DeviceSession, ARefitBeginsAfterWhatTheEngineHasQueued) {
  constexpr uintptr_t kEngineStream = 6;
  const auto publisher = *Publish();
  std::memset(trainer_.buffer->data(), 7, trainer_.buffer->span().size());
  ASSERT_TRUE(publisher->Publish(1, Soon()).ok());
  device_.stream = kEngineStream;
  const auto receiver = *Receive(testing::kEngineGpu);
  const absl::Span<std::byte> live(StoredBase(engine_.memory, 0), kBytes);
  std::memset(live.data(), 3, live.size());
  std::vector<std::byte> read;
  testing::FakeGpus().QueueInStream(
      kEngineStream, [&] { read.assign(live.begin(), live.end()); });
  const auto report = receiver->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(live, Each(std::byte{7}));
  ASSERT_EQ(read.size(), live.size());
  EXPECT_THAT(read, Each(std::byte{3}));
}

TEST_F(DeviceSession, MemoryThatLiesElsewhereIsRefused) {
  trainer_.memory.areas[0].device = testing::kEngineGpu;
  EXPECT_THAT(std::string(Publish().status().message()),
              HasSubstr("said to lie on GPU 1, but lies on GPU 0"));
  trainer_.memory.areas[0].device = testing::kTrainerGpu;
  device_.driver = nullptr;
  EXPECT_THAT(std::string(Publish().status().message()),
              HasSubstr("no driver is given"));
}

TEST_F(DeviceSession, ARankOnTwoGpusIsRefused) {
  trainer_.memory.areas.push_back(engine_.memory.areas[0]);
  EXPECT_THAT(std::string(Publish().status().message()),
              HasSubstr("on GPU 0 and on GPU 1"));
}

TEST_F(DeviceSession, ATransportForAnotherGpuIsNamed) {
  const auto publisher = *Publish();
  ASSERT_TRUE(publisher->Publish(1, Soon()).ok());
  const auto receiver = *Receive(testing::kTrainerGpu);
  const auto report = receiver->Refit(nullptr, false, Soon());
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("not mapped for GPU 1"));
}

// GPUs that do not reach each other: the bytes go through the host by UCX, and
// the refit says what was refused and why.
TEST_F(DeviceSession, WithoutPeerAccessARefitGoesByUcxAndSaysSo) {
  memory::FakeDeviceDriver gpus(2);
  gpus.CutLinks();
  device_.driver = &gpus;
  gpus.Adopt(testing::kTrainerGpu, *trainer_.buffer);
  gpus.Adopt(testing::kEngineGpu, *engine_.buffer);
  const auto transports = [&gpus](int gpu) {
    std::vector<std::shared_ptr<transport::Transport>> made;
    made.push_back(
        *transport::MakeCudaTransport({.driver = &gpus, .device = gpu}));
    made.push_back(
        *transport::MakeUcxTransport({.driver = &gpus, .device = gpu}));
    return made;
  };
  PublisherOptions publish;
  publish.model = "m";
  publish.placement = OneTensor();
  publish.memory = trainer_.memory;
  publish.catalog = store_;
  publish.device = device_;
  publish.transports = transports(testing::kTrainerGpu);
  const auto publisher = Publisher::Create(std::move(publish), Soon());
  ASSERT_TRUE(publisher.ok()) << publisher.status();
  std::memset(trainer_.buffer->data(), 9, trainer_.buffer->span().size());
  ASSERT_TRUE((*publisher)->Publish(1, Soon()).ok());
  ReceiverOptions receive;
  receive.model = "m";
  receive.placement = OneTensor();
  receive.memory = engine_.memory;
  receive.catalog = store_;
  receive.execute.device = device_;
  receive.transports = transports(testing::kEngineGpu);
  const auto receiver = Receiver::Create(std::move(receive), Soon());
  ASSERT_TRUE(receiver.ok()) << receiver.status();
  const auto report = (*receiver)->Refit(nullptr, false, Soon());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(absl::MakeSpan(StoredBase(engine_.memory, 0), kBytes),
              Each(std::byte{9}));
  ASSERT_EQ(report->peers.size(), 1U);
  EXPECT_EQ(report->peers[0].transport, "ucx");
  EXPECT_FALSE(report->peers[0].mapped);
  EXPECT_THAT(report->peers[0].detour,
              AllOf(HasSubstr("GPU 1 has no peer access to GPU 0"),
                    HasSubstr("through memory of the host")));
}

}  // namespace
}  // namespace weft::session
