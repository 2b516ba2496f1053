// A random refit: logical tensors, source ranks that hold them in one way, a
// target rank that wants part of them in another, memory for both, and an
// oracle that goes through every element by itself.
#ifndef WEFT_EXECUTE_TESTING_REFIT_CASE_H_
#define WEFT_EXECUTE_TESTING_REFIT_CASE_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/convert/digest.h"
#include "weft/execute/executor.h"
#include "weft/layout/index_map.h"
#include "weft/manifest/placement.h"
#include "weft/memory/buffer.h"
#include "weft/plan/plan.h"
#include "weft/tensor/box.h"
#include "weft/tensor/dtype.h"

namespace weft::execute::testing {

inline constexpr int64_t kGuardBytes = 128;
inline constexpr std::byte kPoison{0xA5};

// Calls `visit` with every coordinate of `box`, the last one fastest.
inline void ForEach(
    const tensor::Box& box,
    const std::function<void(absl::Span<const int64_t>)>& visit) {
  if (box.empty()) return;
  tensor::Shape x;
  for (const tensor::Range& range : box.ranges()) x.push_back(range.begin);
  while (true) {
    visit(x);
    int d = box.rank() - 1;
    while (d >= 0 && ++x[d] == box.range(d).end) {
      x[d] = box.range(d).begin;
      --d;
    }
    if (d < 0) return;
  }
}

// The bits of the whole number `value`, |value| <= 128, as a float of `dtype`.
inline uint64_t FloatBits(tensor::DType dtype, int value) {
  const auto single = static_cast<float>(value);
  switch (dtype) {
    case tensor::DType::kF32:
      return std::bit_cast<uint32_t>(single);
    case tensor::DType::kBF16:  // exact: 8 significant bits
      return std::bit_cast<uint32_t>(single) >> 16;
    default: {  // F16, by its definition
      if (value == 0) return 0;
      const uint64_t sign = value < 0 ? 0x8000 : 0;
      const auto magnitude = static_cast<unsigned>(value < 0 ? -value : value);
      const int exponent = std::bit_width(magnitude) - 1;
      const uint64_t fraction = (magnitude << (10 - exponent)) & 0x3ff;
      return sign | static_cast<uint64_t>(exponent + 15) << 10 | fraction;
    }
  }
}

// The memory of one rank: a buffer with guards around each stored tensor.
struct RankMemory {
  std::unique_ptr<memory::Buffer> buffer;
  std::vector<int64_t> offsets;  // of the stored tensors
  std::vector<int64_t> sizes;

  std::byte* at(size_t stored) const {
    return buffer->data() + offsets[stored];
  }
};

inline int64_t StoredBytes(const layout::StoredTensor& stored) {
  int64_t bytes = tensor::ItemBytes(stored.dtype);
  for (const int64_t extent : stored.shape) bytes *= extent;
  return bytes;
}

inline RankMemory MakeMemory(const manifest::Placement& placement,
                             memory::MemoryKind kind) {
  RankMemory memory;
  int64_t end = kGuardBytes;
  for (const layout::StoredTensor& stored : placement.stored) {
    memory.offsets.push_back(end);
    memory.sizes.push_back(StoredBytes(stored));
    end = (end + memory.sizes.back() + kGuardBytes + 7) / 8 * 8;
  }
  memory.buffer = memory::Buffer::Allocate(kind, end).value();
  return memory;
}

class RefitCase {
 public:
  explicit RefitCase(uint64_t seed,
                     memory::MemoryKind kind = memory::MemoryKind::kShared)
      : random_(seed) {
    MakeTensors();
    const int64_t num_ranks = Pick(1, 3);
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      sources.push_back({"hf", rank, num_ranks, specs_, {}});
    }
    target = {"hf", 0, 1, specs_, {}};
    for (size_t t = 0; t < specs_.size(); ++t) PlaceTensor(t);
    PlacePair();
    for (manifest::Placement& source : sources) {
      source.tensors = specs_;
      memories.push_back(MakeMemory(source, kind));
    }
    target.tensors = specs_;
    target_memory = MakeMemory(target, kind);
    MakePlan();
  }

  std::string error;  // the case could not be made
  std::vector<manifest::Placement> sources;
  manifest::Placement target;
  std::vector<RankMemory> memories;  // of the sources
  RankMemory target_memory;
  std::shared_ptr<const plan::SourceIndex> index;
  plan::Plan plan;

  // New values everywhere at the sources; the target is poisoned.
  void NewVersion() {
    for (size_t t = 0; t < specs_.size(); ++t) {
      values_[t].resize(NumElements(specs_[t].shape));
      for (uint64_t& value : values_[t]) value = random_();
    }
    for (size_t r = 0; r < sources.size(); ++r) {
      for (std::byte& byte : memories[r].buffer->span()) {
        byte = static_cast<std::byte>(random_());
      }
      for (size_t s = 0; s < sources[r].stored.size(); ++s) {
        WriteFragments(sources[r].stored[s], memories[r].at(s));
      }
    }
    for (std::byte& byte : target_memory.buffer->span()) byte = kPoison;
  }

  // What the target's buffer must hold, guards included.
  std::vector<std::byte> Expected() const {
    std::vector<std::byte> expected(target_memory.buffer->span().size(),
                                    kPoison);
    for (size_t s = 0; s < target.stored.size(); ++s) {
      const layout::StoredTensor& stored = target.stored[s];
      std::byte* const base = expected.data() + target_memory.offsets[s];
      WriteFragments(stored, base);
      const int64_t item = tensor::ItemBytes(stored.dtype);
      for (const tensor::Box& box : stored.zero_fill) {
        ForEach(box, [&](absl::Span<const int64_t> x) {
          int64_t offset = 0;
          for (int d = 0; d < box.rank(); ++d) {
            offset = offset * stored.shape[d] + x[d];
          }
          std::memset(base + offset * item, 0, static_cast<size_t>(item));
        });
      }
    }
    return expected;
  }

  // "" or where the target differs from Expected().
  std::string CheckTarget() const {
    const std::vector<std::byte> expected = Expected();
    const auto actual = target_memory.buffer->span();
    for (size_t i = 0; i < expected.size(); ++i) {
      if (actual[i] == expected[i]) continue;
      std::string where = "a guard";
      for (size_t s = 0; s < target.stored.size(); ++s) {
        const auto offset = static_cast<int64_t>(i) - target_memory.offsets[s];
        if (offset >= 0 && offset < target_memory.sizes[s]) {
          where = absl::StrCat("\"", target.stored[s].name, "\" byte ", offset,
                               " of ", target_memory.sizes[s]);
        }
      }
      return absl::StrCat("target byte ", i, " (", where, ") is ",
                          static_cast<int>(actual[i]), ", should be ",
                          static_cast<int>(expected[i]));
    }
    return "";
  }

  // "" or the first element of an identity move that is not in place.
  std::string CheckMove(const plan::Move& move) const {
    std::string fault;
    const layout::StoredTensor& stored = target.stored[move.dst_stored];
    const layout::IndexMap& map = stored.fragments[move.dst_fragment].map;
    const auto item = static_cast<size_t>(tensor::ItemBytes(stored.dtype));
    const std::byte* const base =
        target_memory.at(static_cast<size_t>(move.dst_stored));
    ForEach(move.box, [&](absl::Span<const int64_t> x) {
      const uint64_t bits = Bits(move.tensor, stored.dtype, x);
      const auto offset = static_cast<size_t>(map.OffsetOf(x)) * item;
      if (std::memcmp(base + offset, &bits, item) != 0) {
        fault = absl::StrCat("byte ", offset, " of \"", stored.name,
                             "\" is not in place");
      }
    });
    return fault;
  }

  // "" or the first witness element that is not the source's value.
  std::string CheckScratch(absl::Span<const std::byte> scratch) const {
    std::string fault;
    for (const plan::PeerPlan& peer : plan.peers) {
      for (const plan::Witness& witness : peer.witnesses) {
        const plan::Move& move = peer.moves[witness.move];
        const tensor::DType dtype = move.conversion.from;
        const auto item = static_cast<size_t>(tensor::ItemBytes(dtype));
        size_t at = static_cast<size_t>(witness.scratch_offset_bytes);
        ForEach(witness.box, [&](absl::Span<const int64_t> x) {
          const uint64_t bits = Bits(move.tensor, dtype, x);
          if (at + item > scratch.size() ||
              std::memcmp(scratch.data() + at, &bits, item) != 0) {
            fault = absl::StrCat("scratch byte ", at, " of witness ",
                                 witness.box.ToString(), " is wrong");
          }
          at += item;
        });
      }
    }
    return fault;
  }

  // The digest of `move`'s source values, by the formula of convert/digest.h.
  std::vector<convert::DigestValue> DigestOf(
      const plan::Move& move, const convert::DigestConstants& constants) const {
    const tensor::TileGrid grid = tensor::TileGrid::Of(move.box);
    std::vector<convert::DigestValue> table(
        static_cast<size_t>(grid.num_tiles));
    const int rank = move.box.rank();
    const int64_t item = tensor::ItemBytes(move.conversion.from);
    ForEach(move.box, [&](absl::Span<const int64_t> x) {
      tensor::Shape tile(x.begin(), x.end());
      int64_t row = 0;
      int64_t col = 0;
      if (rank >= 1) {
        col = x[rank - 1] % tensor::kTileCols;
        tile[rank - 1] /= tensor::kTileCols;
      }
      if (rank >= 2) {
        row = x[rank - 2] % tensor::kTileRows;
        tile[rank - 2] /= tensor::kTileRows;
      }
      const uint64_t bits = Bits(move.tensor, move.conversion.from, x);
      for (int s = 0; s < 2; ++s) {
        uint64_t& sum = table[grid.IndexOf(tile)].sum[s];
        if (item == 8) {  // two words
          sum += constants.row[s][row] * constants.col[s][2 * col] *
                 (bits & 0xffffffffu);
          sum += constants.row[s][row] * constants.col[s][2 * col + 1] *
                 (bits >> 32);
        } else {
          const uint64_t value = bits & ((uint64_t{1} << (8 * item)) - 1);
          sum += constants.row[s][row] * constants.col[s][col * item / 4] *
                 (value << (8 * (col * item % 4)));
        }
      }
    });
    return table;
  }

 private:
  int64_t Pick(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random_);
  }
  bool Chance(double share) {
    return std::bernoulli_distribution(share)(random_);
  }
  static size_t NumElements(const tensor::Shape& shape) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    return static_cast<size_t>(count);
  }

  uint64_t Bits(int32_t t, tensor::DType dtype,
                absl::Span<const int64_t> x) const {
    int64_t at = 0;
    for (size_t d = 0; d < x.size(); ++d) at = at * specs_[t].shape[d] + x[d];
    const uint64_t value = values_[t][at];
    return casts_[t] ? FloatBits(dtype, static_cast<int>(value % 257) - 128)
                     : value;
  }

  void WriteFragments(const layout::StoredTensor& stored,
                      std::byte* base) const {
    const int64_t item = tensor::ItemBytes(stored.dtype);
    for (const layout::Fragment& fragment : stored.fragments) {
      ForEach(fragment.map.box(), [&](absl::Span<const int64_t> x) {
        const uint64_t bits = Bits(fragment.tensor, stored.dtype, x);
        std::memcpy(base + fragment.map.OffsetOf(x) * item, &bits,
                    static_cast<size_t>(item));
      });
    }
  }

  void MakeTensors() {
    static constexpr tensor::DType kAny[] = {
        tensor::DType::kU8, tensor::DType::kBF16, tensor::DType::kF32,
        tensor::DType::kF64, tensor::DType::kF8E4M3};
    const int64_t count = Pick(1, 4);
    for (int64_t t = 0; t < count; ++t) {
      tensor::Shape shape;
      const int64_t rank = Pick(0, 3);
      for (int64_t d = 0; d < rank; ++d) {
        shape.push_back(Chance(0.15) ? Pick(100, 200) : Pick(1, 24));
      }
      AddTensor(absl::StrCat("tensor.", t), kAny[Pick(0, 4)], shape,
                Chance(0.5));
    }
  }

  void AddTensor(std::string name, tensor::DType dtype,
                 const tensor::Shape& shape, bool casts) {
    specs_.push_back(
        {std::move(name), casts ? tensor::DType::kBF16 : dtype, shape});
    casts_.push_back(casts);
    values_.emplace_back();
  }

  tensor::DType StoredDType(size_t t) {
    static constexpr tensor::DType kFloats[] = {
        tensor::DType::kBF16, tensor::DType::kF16, tensor::DType::kF32};
    return casts_[t] ? kFloats[Pick(0, 2)] : specs_[t].dtype;
  }

  // Gives tensor t to the sources (replicated, or cut along one dimension) and
  // part of it to the target.
  void PlaceTensor(size_t t) {
    const tensor::Box whole = tensor::Box::OfShape(specs_[t].shape).value();
    const int rank = whole.rank();
    const tensor::DType src_dtype = StoredDType(t);
    const bool replicated = rank == 0 || Chance(0.25);
    const int dim = rank == 0 ? 0 : static_cast<int>(Pick(0, rank - 1));
    int64_t begin = 0;
    for (size_t r = 0; r < sources.size(); ++r) {
      tensor::Box box = whole;
      if (!replicated) {
        const int64_t extent = whole.extent(dim);
        const int64_t end =
            r + 1 == sources.size() ? extent : Pick(begin, extent);
        box = whole.WithRange(dim, {begin, end});
        begin = end;
      }
      if (!box.empty()) {
        sources[r].stored.push_back(
            Store(absl::StrCat("src.", t), t, src_dtype, box, true));
      }
    }
    tensor::Box wanted = whole;
    for (int d = 0; d < rank; ++d) {
      if (Chance(0.5)) continue;
      const int64_t first = Pick(0, whole.extent(d) - 1);
      wanted = wanted.WithRange(d, {first, Pick(first + 1, whole.extent(d))});
    }
    target.stored.push_back(
        Store(absl::StrCat("dst.", t), t, StoredDType(t), wanted, false));
  }

  // A stored tensor of its own for `box`: in order, with its dimensions
  // permuted, with rows interleaved, or padded.
  layout::StoredTensor Store(std::string name, size_t t, tensor::DType dtype,
                             const tensor::Box& box, bool is_source) {
    const int rank = box.rank();
    layout::StoredTensor stored;
    stored.name = std::move(name);
    stored.dtype = dtype;
    std::vector<int> order(rank);  // dimension of the storage -> of the box
    for (int d = 0; d < rank; ++d) order[d] = d;
    if (Chance(0.35)) std::shuffle(order.begin(), order.end(), random_);
    tensor::Shape pad(rank, 0);
    for (int d = 0; d < rank; ++d) {
      if (Chance(0.25)) pad[d] = Pick(1, 5);
      stored.shape.push_back(box.extent(order[d]) + pad[d]);
    }
    std::vector<layout::DimModes> modes(rank);
    int64_t stride = 1;
    for (int d = rank - 1; d >= 0; --d) {
      const int64_t extent = box.extent(order[d]);
      modes[order[d]] = {{extent, stride}};
      const int64_t groups = LargestFactor(extent);
      if (groups > 1 && Chance(0.3)) {  // digits change places
        modes[order[d]] = {{groups, extent / groups * stride},
                           {extent / groups, stride}};
      }
      stride *= stored.shape[d];
    }
    stored.fragments.push_back(
        {static_cast<int32_t>(t),
         layout::IndexMap::Make(box, std::move(modes), 0).value()});
    if (!is_source) AddPadding(stored, pad);
    return stored;
  }

  static int64_t LargestFactor(int64_t extent) {
    for (int64_t factor = extent / 2; factor > 1; --factor) {
      if (extent % factor == 0) return factor;
    }
    return 1;
  }

  // The padding at the end of each dimension, as disjoint boxes.
  static void AddPadding(layout::StoredTensor& stored,
                         const tensor::Shape& pad) {
    tensor::Box rest = tensor::Box::OfShape(stored.shape).value();
    for (int d = 0; d < rest.rank(); ++d) {
      if (pad[d] == 0) continue;
      const int64_t end = stored.shape[d];
      stored.zero_fill.push_back(rest.WithRange(d, {end - pad[d], end}));
      rest = rest.WithRange(d, {0, end - pad[d]});
    }
  }

  // Two tensors in one stored tensor: groups of rows in turn, as a fused qkv
  // has them, with other group sizes at either end.
  void PlacePair() {
    if (Chance(0.4)) return;
    const int64_t cols = Pick(1, 40);
    const int64_t rows = 12 * Pick(1, 4);
    const bool casts = Chance(0.4);
    const size_t first = specs_.size();
    for (int i = 0; i < 2; ++i) {
      AddTensor(absl::StrCat("pair.", i), tensor::DType::kBF16, {rows, cols},
                casts);
    }
    static constexpr int64_t kGroups[] = {1, 2, 3, 4, 6, 12};
    const auto fuse = [&](const char* name, int64_t group) {
      layout::StoredTensor stored;
      stored.name = name;
      stored.dtype = StoredDType(first);
      stored.shape = {2 * rows, cols};
      for (int i = 0; i < 2; ++i) {
        stored.fragments.push_back(
            {static_cast<int32_t>(first) + i,
             layout::IndexMap::Make(
                 tensor::Box::OfShape({rows, cols}).value(),
                 {layout::DimModes{{group, cols},
                                   {rows / group, 2 * group * cols}},
                  layout::DimModes{{cols, 1}}},
                 i * group * cols)
                 .value()});
      }
      return stored;
    };
    sources[Pick(0, static_cast<int64_t>(sources.size()) - 1)].stored.push_back(
        fuse("src.pair", kGroups[Pick(0, 5)]));
    target.stored.push_back(fuse("dst.pair", kGroups[Pick(0, 5)]));
  }

  void MakePlan() {
    std::vector<plan::SourceInfo> infos;
    for (const manifest::Placement& source : sources) {
      infos.push_back(
          {&source, manifest::DigestOf(manifest::EncodePlacement(source)), 0});
    }
    auto made = plan::SourceIndex::Make(std::move(infos));
    if (!made.ok()) {
      error = made.status().ToString();
      return;
    }
    index = *std::move(made);
    auto built = plan::BuildPlan(
        *index, target, manifest::DigestOf(manifest::EncodePlacement(target)),
        {});
    if (!built.ok()) {
      error = built.status().ToString();
      return;
    }
    plan = *std::move(built);
  }

  std::mt19937_64 random_;
  std::vector<tensor::TensorSpec> specs_;
  std::vector<bool> casts_;  // floats that the two ends may store differently
  std::vector<std::vector<uint64_t>> values_;
};

}  // namespace weft::execute::testing

#endif  // WEFT_EXECUTE_TESTING_REFIT_CASE_H_
