// Test support of room `plan`: random meshes.
//
// A world is a list of logical tensors, a source mesh that holds every element
// at least once and a target mesh. Each stored tensor is made together with its
// `labels`: which logical element lies in each stored element. Labels are
// written by walking coordinates with plain formulas, without index maps or
// runs, and are what the oracle (plan_oracle.h) compares with.
#ifndef WEFT_PLAN_TESTING_RANDOM_WORLD_H_
#define WEFT_PLAN_TESTING_RANDOM_WORLD_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/plan/plan.h"

namespace weft::plan::testing {

using Rng = std::mt19937_64;
using Coords = std::vector<int64_t>;

// Uniform in [low, high].
inline int64_t Pick(Rng& rng, int64_t low, int64_t high) {
  return low +
         static_cast<int64_t>(rng() % static_cast<uint64_t>(high - low + 1));
}
inline bool OneIn(Rng& rng, int64_t n) { return Pick(rng, 1, n) == 1; }

inline constexpr int64_t kHole = -1;      // padding that nobody reads
inline constexpr int64_t kZeroFill = -2;  // zero by declaration

struct LogicalTensor {
  tensor::TensorSpec spec;
  // Rows in blocks of this many are equal (a repeated scale).
  int64_t repeat = 1;
};

struct Rank {
  manifest::Placement placement;
  std::vector<std::vector<int64_t>> labels;  // [stored][element]
};

// q, k and v of `groups` query groups: q has `heads` blocks of `head_rows`
// rows a group, k and v one.
struct Attention {
  int32_t q = 0, k = 0, v = 0;
  int64_t groups = 1, heads = 1, head_rows = 1, cols = 1;
};

struct World {
  std::vector<LogicalTensor> tensors;
  std::vector<Attention> attentions;
  std::vector<Rank> sources;
  std::vector<int32_t> distances;  // of the sources
  std::vector<Rank> targets;
};

// All coordinates of a box, last dimension fastest.
inline void ForEach(const tensor::Box& box,
                    const std::function<void(const Coords&)>& visit) {
  if (box.empty()) return;
  Coords x;
  for (const tensor::Range& range : box.ranges()) x.push_back(range.begin);
  while (true) {
    visit(x);
    int dim = box.rank() - 1;
    while (dim >= 0 && ++x[dim] == box.range(dim).end) {
      x[dim] = box.range(dim).begin;
      --dim;
    }
    if (dim < 0) return;
  }
}

inline int64_t LabelOf(const World& world, int32_t tensor, const Coords& x) {
  const LogicalTensor& logical = world.tensors[tensor];
  int64_t index = 0;
  for (size_t dim = 0; dim < x.size(); ++dim) {
    const int64_t at = dim == 0 ? x[0] / logical.repeat : x[dim];
    index = index * logical.spec.shape[dim] + at;
  }
  return (int64_t{tensor} << 32) + index;
}

inline tensor::Box MakeBox(const std::vector<tensor::Range>& ranges) {
  return *tensor::Box::Make(ranges);
}

inline int64_t Volume(const tensor::Shape& shape) {
  int64_t volume = 1;
  for (const int64_t extent : shape) volume *= extent;
  return volume;
}

// Adds stored tensors to one rank.
class RankBuilder {
 public:
  RankBuilder(const World& world, Rank& rank) : world_(world), rank_(rank) {}

  // A stored tensor of `shape` whose elements are still holes.
  layout::StoredTensor& Begin(tensor::DType dtype, tensor::Shape shape) {
    layout::StoredTensor& stored = rank_.placement.stored.emplace_back();
    stored.name = absl::StrCat("stored.", rank_.placement.stored.size() - 1);
    stored.dtype = dtype;
    stored.shape = std::move(shape);
    rank_.labels.emplace_back(Volume(stored.shape), kHole);
    return stored;
  }

  // A fragment of the stored tensor begun last. `position` says where x lies.
  void Fragment(int32_t tensor, const tensor::Box& box,
                std::vector<layout::DimModes> modes, int64_t offset,
                const std::function<int64_t(const Coords&)>& position) {
    layout::StoredTensor& stored = rank_.placement.stored.back();
    stored.fragments.push_back(
        {LocalTensor(tensor),
         *layout::IndexMap::Make(box, std::move(modes), offset)});
    ForEach(box, [&](const Coords& x) {
      rank_.labels.back()[position(x)] = LabelOf(world_, tensor, x);
    });
  }

  void ZeroFill(const tensor::Box& box) {
    layout::StoredTensor& stored = rank_.placement.stored.back();
    stored.zero_fill.push_back(box);
    ForEach(box, [&](const Coords& x) {
      int64_t at = 0;
      for (size_t dim = 0; dim < x.size(); ++dim) {
        at = at * stored.shape[dim] + x[dim];
      }
      rank_.labels.back()[at] = kZeroFill;
    });
  }

 private:
  int32_t LocalTensor(int32_t tensor) {
    auto& list = rank_.placement.tensors;
    const tensor::TensorSpec& spec = world_.tensors[tensor].spec;
    for (size_t i = 0; i < list.size(); ++i) {
      if (list[i].name == spec.name) return static_cast<int32_t>(i);
    }
    list.push_back(spec);
    return static_cast<int32_t>(list.size() - 1);
  }

  const World& world_;
  Rank& rank_;
};

inline layout::DimModes OneMode(int64_t extent, int64_t stride) {
  layout::DimModes modes;
  modes.push_back({extent, stride});
  return modes;
}

// `box` of a tensor by itself: row-major, or with its dimensions reversed, or
// with rows padded by `pad_rows` (zeros at a target, holes at a source).
inline void AddBox(const World& world, Rank& rank, int32_t tensor,
                   const tensor::Box& box, tensor::DType dtype, bool reversed,
                   int64_t pad_rows, bool is_target) {
  RankBuilder builder(world, rank);
  const int ndim = box.rank();
  tensor::Shape shape = box.shape();
  if (reversed) std::reverse(shape.begin(), shape.end());
  if (pad_rows > 0) shape[0] += pad_rows;
  std::vector<int64_t> strides(ndim, 1);
  for (int dim = ndim - 2; dim >= 0; --dim) {
    strides[dim] = strides[dim + 1] * shape[dim + 1];
  }
  if (reversed) std::reverse(strides.begin(), strides.end());
  std::vector<layout::DimModes> modes;
  for (int dim = 0; dim < ndim; ++dim) {
    modes.push_back(OneMode(box.extent(dim), strides[dim]));
  }
  builder.Begin(dtype, shape);
  builder.Fragment(tensor, box, modes, 0, [&](const Coords& x) {
    int64_t at = 0;
    for (int dim = 0; dim < ndim; ++dim) {
      at += (x[dim] - box.range(dim).begin) * strides[dim];
    }
    return at;
  });
  if (pad_rows > 0 && is_target) {
    std::vector<tensor::Range> pad;
    for (const int64_t extent : shape) pad.push_back({0, extent});
    pad[0].begin = shape[0] - pad_rows;
    builder.ZeroFill(MakeBox(pad));
  }
}

// The repeated tensor, each block of equal rows stored once.
inline void AddRepeated(const World& world, Rank& rank, int32_t tensor,
                        tensor::DType dtype) {
  const LogicalTensor& logical = world.tensors[tensor];
  const int64_t rows = logical.spec.shape[0], cols = logical.spec.shape[1];
  const int64_t repeat = logical.repeat;
  RankBuilder builder(world, rank);
  builder.Begin(dtype, {rows / repeat, cols});
  layout::DimModes row_modes = OneMode(repeat, 0);
  row_modes.push_back({rows / repeat, cols});
  builder.Fragment(
      tensor, MakeBox({{0, rows}, {0, cols}}), {row_modes, OneMode(cols, 1)}, 0,
      [&](const Coords& x) { return x[0] / repeat * cols + x[1]; });
}

// All rows, those of one block `stride` rows apart: row i + b*j lies at row
// i*(rows/b) + j (what a rotary permutation does).
inline void AddPermutedRows(const World& world, Rank& rank, int32_t tensor,
                            int64_t block, tensor::Range cols_cut,
                            tensor::DType dtype) {
  const int64_t rows = world.tensors[tensor].spec.shape[0];
  const int64_t blocks = rows / block, cols = cols_cut.extent();
  RankBuilder builder(world, rank);
  builder.Begin(dtype, {rows, cols});
  layout::DimModes row_modes = OneMode(block, blocks * cols);
  row_modes.push_back({blocks, cols});
  builder.Fragment(tensor, MakeBox({{0, rows}, cols_cut}),
                   {row_modes, OneMode(cols, 1)}, 0, [&](const Coords& x) {
                     return (x[0] % block * blocks + x[0] / block) * cols +
                            (x[1] - cols_cut.begin);
                   });
}

// Query groups [first, end) as q..., k, v rows of group after group.
inline void AddInterleaved(const World& world, Rank& rank,
                           const Attention& attention, tensor::Range groups,
                           tensor::DType dtype) {
  const int64_t hr = attention.head_rows, cols = attention.cols;
  const int64_t q_rows = attention.heads * hr, group_rows = q_rows + 2 * hr;
  RankBuilder builder(world, rank);
  builder.Begin(dtype, {groups.extent() * group_rows, cols});
  const auto add = [&](int32_t tensor, int64_t rows, int64_t first_row) {
    layout::DimModes row_modes = OneMode(rows, cols);
    row_modes.push_back({groups.extent(), group_rows * cols});
    builder.Fragment(
        tensor, MakeBox({{groups.begin * rows, groups.end * rows}, {0, cols}}),
        {row_modes, OneMode(cols, 1)}, first_row * cols, [&](const Coords& x) {
          const int64_t group = x[0] / rows - groups.begin;
          return (group * group_rows + first_row + x[0] % rows) * cols + x[1];
        });
  };
  add(attention.q, q_rows, 0);
  add(attention.k, hr, q_rows);
  add(attention.v, hr, q_rows + hr);
}

// Rows of q, k and v one after the other: `q`, `kv` in rows of the tensors.
inline void AddStacked(const World& world, Rank& rank,
                       const Attention& attention, tensor::Range q,
                       tensor::Range kv, int64_t pad_rows,
                       tensor::DType dtype) {
  const int64_t cols = attention.cols;
  const int64_t rows = q.extent() + 2 * kv.extent();
  RankBuilder builder(world, rank);
  builder.Begin(dtype, {rows + pad_rows, cols});
  int64_t first_row = 0;
  const auto add = [&](int32_t tensor, tensor::Range range) {
    builder.Fragment(tensor, MakeBox({range, {0, cols}}),
                     {OneMode(range.extent(), cols), OneMode(cols, 1)},
                     first_row * cols, [&](const Coords& x) {
                       return (first_row + x[0] - range.begin) * cols + x[1];
                     });
    first_row += range.extent();
  };
  add(attention.q, q);
  add(attention.k, kv);
  add(attention.v, kv);
  if (pad_rows > 0) {
    builder.ZeroFill(MakeBox({{rows, rows + pad_rows}, {0, cols}}));
  }
}

inline tensor::Range Chunk(int64_t n, int64_t parts, int64_t part) {
  const int64_t size = (n + parts - 1) / parts;
  return {std::min(n, part * size), std::min(n, (part + 1) * size)};
}

inline tensor::Box WholeBox(const World& world, int32_t tensor) {
  return *tensor::Box::OfShape(world.tensors[tensor].spec.shape);
}

// One of `parts` chunks along `dim`, or the whole if dim is -1.
inline tensor::Box ChunkBox(const World& world, int32_t tensor, int dim,
                            int64_t parts, int64_t part) {
  const tensor::Box whole = WholeBox(world, tensor);
  if (dim < 0) return whole;
  return whole.WithRange(dim, Chunk(whole.extent(dim), parts, part));
}

// Tensors that only `BuildPlan` knows as related are made one by one.
inline void AddRandomTensors(World& world, Rng& rng) {
  const auto add = [&](tensor::Shape shape, int64_t repeat) {
    const auto index = static_cast<int32_t>(world.tensors.size());
    world.tensors.push_back(
        {{absl::StrCat("t.", index), tensor::DType::kBF16, std::move(shape)},
         repeat});
    return index;
  };
  const int64_t singles = Pick(rng, 1, 4);
  for (int64_t i = 0; i < singles; ++i) {
    tensor::Shape shape;
    const int64_t ndim = Pick(rng, 0, 3);
    // Now and then larger than a digest tile.
    for (int64_t d = 0; d < ndim; ++d) {
      shape.push_back(OneIn(rng, 6) ? Pick(rng, 60, 140) : Pick(rng, 1, 13));
    }
    if (ndim == 3) shape[0] = Pick(rng, 1, 4);
    add(std::move(shape), 1);
  }
  if (OneIn(rng, 2)) {
    const int64_t repeat = Pick(rng, 2, 4);
    add({repeat * Pick(rng, 1, 4), Pick(rng, 1, 5)}, repeat);
  }
  if (OneIn(rng, 2)) add({24, Pick(rng, 1, 6)}, 1);  // for permuted rows
  const int64_t attentions = Pick(rng, 0, 2);
  for (int64_t i = 0; i < attentions; ++i) {
    Attention attention{.groups = Pick(rng, 1, 6),
                        .heads = Pick(rng, 1, 3),
                        .head_rows = Pick(rng, 1, 5),
                        .cols = OneIn(rng, 4) ? 70 : Pick(rng, 1, 9)};
    const int64_t kv_rows = attention.groups * attention.head_rows;
    attention.q = add({kv_rows * attention.heads, attention.cols}, 1);
    attention.k = add({kv_rows, attention.cols}, 1);
    attention.v = add({kv_rows, attention.cols}, 1);
    world.attentions.push_back(attention);
  }
}

inline bool IsInAttention(const World& world, int32_t tensor) {
  for (const Attention& each : world.attentions) {
    if (tensor == each.q || tensor == each.k || tensor == each.v) return true;
  }
  return false;
}

inline tensor::DType PickFloat(Rng& rng) {
  const tensor::DType all[] = {tensor::DType::kBF16, tensor::DType::kBF16,
                               tensor::DType::kF32, tensor::DType::kF16};
  return all[Pick(rng, 0, 3)];
}

inline int PickDim(Rng& rng, const World& world, int32_t tensor) {
  const int ndim = static_cast<int>(world.tensors[tensor].spec.shape.size());
  return static_cast<int>(Pick(rng, -1, ndim - 1));
}

// Puts `tensor` on the ranks so that each element is somewhere; `replicas` of
// the same cut lie on ranks r, r+parts, ...
inline void SpreadSource(World& world, Rng& rng, int32_t tensor) {
  auto& ranks = world.sources;
  const int64_t n = static_cast<int64_t>(ranks.size());
  const LogicalTensor& logical = world.tensors[tensor];
  const tensor::DType dtype = PickFloat(rng);
  const auto& shape = logical.spec.shape;
  if (logical.repeat > 1 && OneIn(rng, 2)) {
    AddRepeated(world, ranks[Pick(rng, 0, n - 1)], tensor, dtype);
    return;
  }
  if (shape.size() == 2 && shape[0] == 24 && OneIn(rng, 2)) {
    const int64_t blocks[] = {2, 3, 4, 6, 8, 12};
    AddPermutedRows(world, ranks[Pick(rng, 0, n - 1)], tensor,
                    blocks[Pick(rng, 0, 5)], {0, shape[1]}, dtype);
    return;
  }
  const int dim = PickDim(rng, world, tensor);
  const int64_t parts = Pick(rng, 1, n);
  const int dim2 = OneIn(rng, 3) ? PickDim(rng, world, tensor) : -1;
  const bool reversed = OneIn(rng, 4);
  for (int64_t r = 0; r < n; ++r) {
    if (r >= parts && OneIn(rng, 3)) continue;  // not every replica
    tensor::Box box = ChunkBox(world, tensor, dim, parts, r % parts);
    if (dim2 >= 0 && dim2 != dim) {
      // Both halves of a second cut on the same rank.
      const int64_t extent = box.extent(dim2);
      for (int64_t half = 0; half < 2; ++half) {
        AddBox(world, ranks[r], tensor,
               box.WithRange(dim2, Chunk(extent, 2, half)), dtype, reversed, 0,
               false);
      }
      continue;
    }
    const int64_t pad = box.rank() > 0 && OneIn(rng, 5) ? Pick(rng, 1, 3) : 0;
    AddBox(world, ranks[r], tensor, box, dtype, reversed, pad, false);
  }
  if (OneIn(rng, 3)) {  // a copy that overlaps the cut
    const int64_t extra = Pick(rng, 1, 3);
    AddBox(world, ranks[Pick(rng, 0, n - 1)], tensor,
           ChunkBox(world, tensor, PickDim(rng, world, tensor), extra,
                    Pick(rng, 0, extra - 1)),
           OneIn(rng, 2) ? dtype : PickFloat(rng), false, 0, false);
  }
}

inline void SpreadSource(World& world, Rng& rng, const Attention& attention) {
  auto& ranks = world.sources;
  const int64_t n = static_cast<int64_t>(ranks.size());
  if (OneIn(rng, 3)) {
    for (const int32_t each : {attention.q, attention.k, attention.v}) {
      SpreadSource(world, rng, each);
    }
    return;
  }
  const int64_t parts = Pick(rng, 1, n);
  const tensor::DType dtype = PickFloat(rng);
  for (int64_t r = 0; r < n; ++r) {
    const tensor::Range groups = Chunk(attention.groups, parts, r % parts);
    if (groups.extent() == 0) continue;
    AddInterleaved(world, ranks[r], attention, groups, dtype);
  }
}

inline void SpreadTarget(World& world, Rng& rng, int32_t tensor) {
  auto& ranks = world.targets;
  const int64_t n = static_cast<int64_t>(ranks.size());
  const auto& shape = world.tensors[tensor].spec.shape;
  const tensor::DType dtype = PickFloat(rng);
  const int dim = PickDim(rng, world, tensor);
  const int64_t parts = Pick(rng, 1, n);
  const bool permuted = shape.size() == 2 && shape[0] == 24 && OneIn(rng, 2);
  const int64_t blocks[] = {2, 3, 4, 6, 8, 12};
  const int64_t block = blocks[Pick(rng, 0, 5)];
  const bool reversed = OneIn(rng, 4);
  for (int64_t r = 0; r < n; ++r) {
    const int64_t copies = OneIn(rng, 6) ? 2 : 1;
    for (int64_t copy = 0; copy < copies; ++copy) {
      if (permuted) {
        AddPermutedRows(world, ranks[r], tensor, block,
                        Chunk(shape[1], parts, r % parts), dtype);
        continue;
      }
      const tensor::Box box = ChunkBox(world, tensor, dim, parts, r % parts);
      const int64_t pad = box.rank() > 0 && OneIn(rng, 3) ? Pick(rng, 1, 3) : 0;
      AddBox(world, ranks[r], tensor, box, dtype, reversed, pad, true);
    }
  }
}

inline void SpreadTarget(World& world, Rng& rng, const Attention& attention) {
  auto& ranks = world.targets;
  const int64_t n = static_cast<int64_t>(ranks.size());
  const tensor::DType dtype = PickFloat(rng);
  const int64_t kind = Pick(rng, 0, 2);
  if (kind == 0) {
    for (const int32_t each : {attention.q, attention.k, attention.v}) {
      SpreadTarget(world, rng, each);
    }
    return;
  }
  for (int64_t r = 0; r < n; ++r) {
    if (kind == 1) {
      const tensor::Range groups = Chunk(attention.groups, n, r);
      if (groups.extent() == 0) continue;
      AddInterleaved(world, ranks[r], attention, groups, dtype);
      continue;
    }
    // Heads are dealt out; each rank has the KV heads that its heads use, so
    // that neighbours may share one.
    const tensor::Range heads = Chunk(attention.groups * attention.heads, n, r);
    if (heads.extent() == 0) continue;
    const int64_t hr = attention.head_rows;
    const tensor::Range kv = {heads.begin / attention.heads * hr,
                              ((heads.end - 1) / attention.heads + 1) * hr};
    AddStacked(world, ranks[r], attention, {heads.begin * hr, heads.end * hr},
               kv, OneIn(rng, 3) ? Pick(rng, 1, 4) : 0, dtype);
  }
}

inline std::vector<Rank> EmptyMesh(const std::string& spec, int64_t n) {
  std::vector<Rank> ranks(n);
  for (int64_t r = 0; r < n; ++r) {
    ranks[r].placement.layout_spec = spec;
    ranks[r].placement.rank = r;
    ranks[r].placement.num_ranks = n;
  }
  return ranks;
}

inline World MakeRandomWorld(Rng& rng) {
  World world;
  AddRandomTensors(world, rng);
  world.sources = EmptyMesh("source", Pick(rng, 1, 6));
  world.targets = EmptyMesh("target", Pick(rng, 1, 4));
  for (size_t i = 0; i < world.sources.size(); ++i) {
    world.distances.push_back(static_cast<int32_t>(Pick(rng, 0, 1)));
  }
  for (size_t i = 0; i < world.tensors.size(); ++i) {
    const auto tensor = static_cast<int32_t>(i);
    if (IsInAttention(world, tensor)) continue;
    SpreadSource(world, rng, tensor);
    SpreadTarget(world, rng, tensor);
  }
  for (const Attention& attention : world.attentions) {
    SpreadSource(world, rng, attention);
    SpreadTarget(world, rng, attention);
  }
  return world;
}

inline manifest::LayoutDigest DigestOfPlacement(
    const manifest::Placement& placement) {
  return manifest::DigestOf(manifest::EncodePlacement(placement));
}

inline std::vector<SourceInfo> InfosOf(const World& world) {
  std::vector<SourceInfo> infos;
  for (size_t i = 0; i < world.sources.size(); ++i) {
    infos.push_back({&world.sources[i].placement,
                     DigestOfPlacement(world.sources[i].placement),
                     world.distances.empty() ? 0 : world.distances[i]});
  }
  return infos;
}

}  // namespace weft::plan::testing

#endif  // WEFT_PLAN_TESTING_RANDOM_WORLD_H_
