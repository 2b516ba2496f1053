// Trainers and engines of one process around a catalog in memory, over each
// transport: what tests of replicas and copies are made of. Header only.
#ifndef WEFT_SESSION_TESTING_FAN_OUT_H_
#define WEFT_SESSION_TESTING_FAN_OUT_H_

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weft/catalog/memory/memory_store.h"
#include "weft/session/publisher.h"
#include "weft/session/receiver.h"
#include "weft/transport/inproc/inproc_transport.h"
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/testing/fault_transport.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::session::testing {

inline constexpr int64_t kRows = 160;
inline constexpr int64_t kCols = 96;
inline constexpr int64_t kItemBytes = 2;
inline constexpr char kWeight[] = "mlp.up.weight";

inline base::Deadline Soon() {
  return base::Deadline::After(std::chrono::minutes(2));
}

inline uint16_t ValueAt(int64_t row, int64_t column, uint64_t step) {
  const uint64_t mixed =
      (static_cast<uint64_t>(row * kCols + column) + 1) * 0x9e3779b97f4a7c15u +
      step * 0xda942042e4dd58b5u;
  return static_cast<uint16_t>(mixed >> 37);
}

struct Window {
  tensor::Range rows{0, kRows};
  tensor::Range columns{0, kCols};
};

inline manifest::Placement Holding(const Window& window, int64_t rank,
                                   int64_t num_ranks,
                                   const std::string& layout) {
  manifest::Placement placement;
  placement.layout_spec = layout;
  placement.rank = rank;
  placement.num_ranks = num_ranks;
  placement.tensors = {{kWeight, tensor::DType::kBF16, {kRows, kCols}}};
  layout::StoredTensor stored{"w",
                              tensor::DType::kBF16,
                              {window.rows.extent(), window.columns.extent()},
                              {},
                              {}};
  stored.fragments.push_back(
      {0, *layout::IndexMap::RowMajor(
              *tensor::Box::Make({window.rows, window.columns}), stored.shape,
              {0, 0})});
  placement.stored = {std::move(stored)};
  return placement;
}

// The bytes of a window, worked out element by element.
inline std::string Bytes(const Window& window, uint64_t step) {
  std::string bytes;
  for (int64_t r = window.rows.begin; r < window.rows.end; ++r) {
    for (int64_t c = window.columns.begin; c < window.columns.end; ++c) {
      const uint16_t value = ValueAt(r, c, step);
      bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
  }
  return bytes;
}

class FanOutTest : public ::testing::TestWithParam<std::string> {
 protected:
  struct Trainer {
    Window window;
    OwnedRankMemory owned;
    std::unique_ptr<Publisher> publisher;
  };
  struct Engine {
    Window window;
    OwnedRankMemory owned;
    std::shared_ptr<transport::FaultScript> faults;
    std::unique_ptr<Receiver> receiver;

    std::string Held() const {
      return std::string(
          reinterpret_cast<const char*>(StoredBase(owned.memory, 0)),
          static_cast<size_t>(window.rows.extent() * window.columns.extent() *
                              kItemBytes));
    }
  };
  using Adjust = std::function<void(ReceiverOptions&)>;

  std::shared_ptr<transport::Transport> MakeTransport(
      std::shared_ptr<transport::FaultScript> faults) const {
    std::unique_ptr<transport::Transport> made;
    if (GetParam() == "inproc") made = transport::MakeInprocTransport();
    if (GetParam() == "shm") made = *transport::MakeShmTransport();
    if (GetParam() == "ucx") made = *transport::MakeUcxTransport({});
    if (faults != nullptr) {
      made = transport::MakeFaultTransport(std::move(made), std::move(faults));
    }
    return made;
  }

  // `parts` row shards, each on `replicas` ranks: rank r holds part r % parts.
  void StartTrainers(int64_t parts, int64_t replicas, uint64_t epoch = 0) {
    trainers_.clear();
    const int64_t chunk = kRows / parts;
    for (int64_t rank = 0; rank < parts * replicas; ++rank) {
      auto trainer = std::make_unique<Trainer>();
      const int64_t part = rank % parts;
      trainer->window.rows = {part * chunk, (part + 1) * chunk};
      PublisherOptions options;
      options.model = "m";
      options.epoch = epoch;
      options.placement =
          Holding(trainer->window, rank, parts * replicas, "rows");
      trainer->owned =
          *AllocateFor(options.placement, memory::MemoryKind::kShared);
      options.memory = trainer->owned.memory;
      options.catalog = store_;
      options.transports.push_back(MakeTransport(nullptr));
      trainer->publisher = *Publisher::Create(std::move(options), Soon());
      trainers_.push_back(std::move(trainer));
    }
  }

  void PublishAll(uint64_t step) {
    for (auto& trainer : trainers_) {
      ASSERT_TRUE(trainer->publisher->BeginUpdate(Soon()).ok());
      const std::string bytes = Bytes(trainer->window, step);
      std::memcpy(StoredBase(trainer->owned.memory, 0), bytes.data(),
                  bytes.size());
      const auto report = trainer->publisher->Publish(step, Soon());
      ASSERT_TRUE(report.ok()) << report.status();
    }
  }

  std::unique_ptr<Engine> StartEngine(const Window& window, bool serve,
                                      bool faulty = false,
                                      const Adjust& adjust = nullptr) {
    auto engine = std::make_unique<Engine>();
    engine->window = window;
    ReceiverOptions options;
    options.model = "m";
    options.placement = Holding(window, 0, 1, "engine");
    engine->owned =
        *AllocateFor(options.placement, memory::MemoryKind::kShared);
    options.memory = engine->owned.memory;
    options.catalog = store_;
    if (faulty) engine->faults = std::make_shared<transport::FaultScript>();
    options.transports.push_back(MakeTransport(engine->faults));
    options.execute.num_threads = 2;
    options.measure_bound = false;
    options.serve = serve;
    if (adjust) adjust(options);
    engine->receiver = *Receiver::Create(std::move(options), Soon());
    return engine;
  }

  // One that would serve, but whose hook changes a byte of what arrived.
  std::unique_ptr<Engine> StartSpoiler() {
    return StartEngine({}, true, false, [](auto& options) {
      std::byte* const weights = StoredBase(options.memory, 0);
      options.derive_hook = [weights](const catalog::VersionId&) {
        weights[77] ^= std::byte{1};
        return absl::OkStatus();
      };
    });
  }

  RefitReport Refit(Engine& engine) {
    Poison(engine);
    auto report = engine.receiver->Refit(nullptr, false, Soon());
    EXPECT_TRUE(report.ok()) << report.status();
    if (!report.ok()) return {};
    EXPECT_EQ(engine.Held(), Bytes(engine.window, report->version.step));
    EXPECT_FALSE(engine.receiver->fenced());
    return *std::move(report);
  }

  static void Poison(Engine& engine) {
    std::memset(engine.owned.buffer->data(), 0xA5,
                engine.owned.buffer->span().size());
  }

  size_t NumSources() {
    return store_->GetSources("m", Soon())->sources.size();
  }

  std::shared_ptr<catalog::CatalogStore> store_ = catalog::MakeMemoryStore({});
  std::vector<std::unique_ptr<Trainer>> trainers_;
};

inline int64_t BytesFrom(const RefitReport& report, const std::string& name) {
  int64_t bytes = 0;
  for (const PeerReport& peer : report.peers) {
    if (peer.name.starts_with(name)) bytes += peer.bytes;
  }
  return bytes;
}

}  // namespace weft::session::testing

#endif  // WEFT_SESSION_TESTING_FAN_OUT_H_
