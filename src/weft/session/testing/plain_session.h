// Trainers and engines in one process, through any transport, with weights that
// a plain function of (tensor, logical index, step) gives: no part of Weft
// computes what is expected.
#ifndef WEFT_SESSION_TESTING_PLAIN_SESSION_H_
#define WEFT_SESSION_TESTING_PLAIN_SESSION_H_

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
#include "weft/session/testing/fake_gpus.h"
#include "weft/transport/inproc/inproc_transport.h"
#include "weft/transport/shm/shm_transport.h"
#include "weft/transport/testing/fault_transport.h"
#include "weft/transport/ucx/ucx_transport.h"

namespace weft::session::testing {

inline base::Deadline Soon() {
  return base::Deadline::After(std::chrono::minutes(2));
}

inline uint16_t ValueOf(int32_t tensor, int64_t logical_index, uint64_t step) {
  const uint64_t mixed = (static_cast<uint64_t>(tensor) * 1000003 +
                          static_cast<uint64_t>(logical_index)) *
                             0x9e3779b97f4a7c15u +
                         step * 0xda942042e4dd58b5u;
  return static_cast<uint16_t>(mixed >> 40);
}

inline const std::string kWeight = "attention.q.weight";
inline const std::string kNorm = "attention.norm.weight";

// kWeight [rows, cols] and kNorm [cols].
inline std::vector<tensor::TensorSpec> Specs(int64_t rows, int64_t cols) {
  return {{kWeight, tensor::DType::kBF16, {rows, cols}},
          {kNorm, tensor::DType::kBF16, {cols}}};
}

inline layout::StoredTensor StoredBox(
    int32_t tensor_index, const std::string& name,
    const std::vector<tensor::Range>& ranges) {
  layout::StoredTensor stored{name, tensor::DType::kBF16, {}, {}, {}};
  absl::InlinedVector<int64_t, 4> origin;
  for (const tensor::Range& range : ranges) {
    stored.shape.push_back(range.extent());
    origin.push_back(0);
  }
  stored.fragments.push_back(
      {tensor_index, *layout::IndexMap::RowMajor(*tensor::Box::Make(ranges),
                                                 stored.shape, origin)});
  return stored;
}

// kWeight cut by rows over `num_ranks`; kNorm whole on every rank.
inline manifest::Placement RowShard(int64_t rows, int64_t cols, int64_t rank,
                                    int64_t num_ranks) {
  manifest::Placement placement;
  placement.layout_spec = "rows";
  placement.rank = rank;
  placement.num_ranks = num_ranks;
  placement.tensors = Specs(rows, cols);
  const int64_t chunk = (rows + num_ranks - 1) / num_ranks;
  placement.stored = {StoredBox(0, "w_shard",
                                {{std::min(rows, rank * chunk),
                                  std::min(rows, (rank + 1) * chunk)},
                                 {0, cols}}),
                      StoredBox(1, "norm", {{0, cols}})};
  return placement;
}

// Columns [begin, end) of kWeight and the norm.
inline manifest::Placement ColumnCut(int64_t rows, int64_t cols, int64_t begin,
                                     int64_t end) {
  manifest::Placement placement;
  placement.layout_spec = "columns";
  placement.tensors = Specs(rows, cols);
  placement.stored = {StoredBox(0, "w_cut", {{0, rows}, {begin, end}}),
                      StoredBox(1, "norm", {{0, cols}})};
  return placement;
}

// Fills or checks by the plain function; only row-major boxes occur here.
inline void FillPlain(const manifest::Placement& placement,
                      const RankMemory& memory, uint64_t step) {
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    const layout::Fragment& fragment = placement.stored[i].fragments[0];
    const tensor::Box& box = fragment.map.box();
    const tensor::Shape& whole = placement.tensors[fragment.tensor].shape;
    auto* out = reinterpret_cast<uint16_t*>(StoredBase(memory, i));
    if (box.rank() == 1) {
      for (int64_t c = box.range(0).begin; c < box.range(0).end; ++c) {
        *out++ = ValueOf(fragment.tensor, c, step);
      }
      continue;
    }
    for (int64_t r = box.range(0).begin; r < box.range(0).end; ++r) {
      for (int64_t c = box.range(1).begin; c < box.range(1).end; ++c) {
        *out++ = ValueOf(fragment.tensor, r * whole[1] + c, step);
      }
    }
  }
}

inline std::string BytesOf(const OwnedRankMemory& owned) {
  return std::string(reinterpret_cast<const char*>(owned.buffer->data()),
                     static_cast<size_t>(owned.buffer->size_bytes()));
}

// The whole buffer as it must be: alignment gaps keep the poison.
inline std::string Expected(const manifest::Placement& placement,
                            uint64_t step) {
  OwnedRankMemory owned = *AllocateFor(placement, memory::MemoryKind::kHost);
  std::memset(owned.buffer->data(), 0xA5, owned.buffer->span().size());
  FillPlain(placement, owned.memory, step);
  return BytesOf(owned);
}

// `device`: of the rank that uses it, for transports of fake GPUs.
inline std::unique_ptr<transport::Transport> MakeTransport(
    const std::string& name, int device) {
  if (OnFakeGpus(name)) return MakeFakeGpuTransport(device, name);
  if (name == "inproc") return transport::MakeInprocTransport();
  if (name == "shm") return *transport::MakeShmTransport();
  return *transport::MakeUcxTransport({});
}

struct Trainer {
  manifest::Placement placement;
  OwnedRankMemory owned;
  std::unique_ptr<Publisher> publisher;
};

// The parameter is the transport.
class PlainSession : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr int64_t kRows = 200;
  static constexpr int64_t kCols = 150;

  absl::StatusOr<std::unique_ptr<Trainer>> StartTrainer(
      int64_t rank, int64_t num_ranks, uint64_t epoch = 0,
      const std::string& run_id = "run") {
    auto trainer = std::make_unique<Trainer>();
    trainer->placement = RowShard(kRows, kCols, rank, num_ranks);
    trainer->owned = AllocateUnder(GetParam(), trainer->placement, kTrainerGpu);
    PublisherOptions options;
    options.device = FakeGpuOptions();
    options.model = "m";
    options.run_id = run_id;
    options.epoch = epoch;
    options.placement = trainer->placement;
    options.memory = trainer->owned.memory;
    options.catalog = store_;
    options.transports.push_back(MakeTransport(GetParam(), kTrainerGpu));
    auto publisher = Publisher::Create(std::move(options), Soon());
    if (!publisher.ok()) return publisher.status();
    trainer->publisher = *std::move(publisher);
    return trainer;
  }

  void StartTrainers(int64_t num_ranks, uint64_t epoch = 0,
                     const std::string& run_id = "run") {
    trainers_.clear();
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      auto trainer = StartTrainer(rank, num_ranks, epoch, run_id);
      ASSERT_TRUE(trainer.ok()) << trainer.status();
      trainers_.push_back(*std::move(trainer));
    }
  }

  void PublishAll(uint64_t step) {
    for (auto& trainer : trainers_) {
      ASSERT_TRUE(trainer->publisher->BeginUpdate(Soon()).ok());
      FillPlain(trainer->placement, trainer->owned.memory, step);
      const auto report = trainer->publisher->Publish(step, Soon());
      ASSERT_TRUE(report.ok()) << report.status();
    }
  }

  struct Engine {
    manifest::Placement placement;
    OwnedRankMemory owned;
    std::shared_ptr<transport::FaultScript> faults;
    std::unique_ptr<Receiver> receiver;
  };

  Engine StartEngine(
      manifest::Placement placement, bool faulty = false,
      const std::function<void(ReceiverOptions&)>& adjust = nullptr) {
    Engine engine;
    engine.placement = std::move(placement);
    engine.owned = AllocateUnder(GetParam(), engine.placement, kEngineGpu);
    Poison(engine);
    ReceiverOptions options;
    options.execute.device = FakeGpuOptions();
    options.model = "m";
    options.placement = engine.placement;
    options.memory = engine.owned.memory;
    options.catalog = store_;
    std::unique_ptr<transport::Transport> transport =
        MakeTransport(GetParam(), kEngineGpu);
    if (faulty) {
      engine.faults = std::make_shared<transport::FaultScript>();
      transport =
          transport::MakeFaultTransport(std::move(transport), engine.faults);
    }
    options.transports.push_back(std::move(transport));
    options.execute.num_threads = 2;
    options.measure_bound = false;
    if (adjust) adjust(options);
    engine.receiver = *Receiver::Create(std::move(options), Soon());
    return engine;
  }

  static void Poison(Engine& engine) {
    std::memset(engine.owned.buffer->data(), 0xA5,
                engine.owned.buffer->span().size());
  }

  std::shared_ptr<catalog::CatalogStore> store_ = catalog::MakeMemoryStore({});
  std::vector<std::unique_ptr<Trainer>> trainers_;
};

}  // namespace weft::session::testing

#endif  // WEFT_SESSION_TESTING_PLAIN_SESSION_H_
