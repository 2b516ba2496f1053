#include <algorithm>
#include <cassert>
#include <cstddef>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/algorithm/container.h"
#include "weft/layout/index_map.h"

namespace weft::layout {
namespace {

// kContinue joins what goes on where the neighbour stopped; kRepeat also makes
// a first pair out of two equal neighbours. Continuations go first, because a
// pair that is made too early may break a longer piece apart.
enum class JoinRule { kContinue, kRepeat };

int Compare(int64_t a, int64_t b) { return a < b ? -1 : (a > b ? 1 : 0); }

int Compare(const DimModes& a, const DimModes& b) {
  for (std::size_t k = 0; k < std::min(a.size(), b.size()); ++k) {
    if (const int c = Compare(a[k].extent, b[k].extent)) return c;
    if (const int c = Compare(a[k].stride, b[k].stride)) return c;
  }
  return Compare(static_cast<int64_t>(a.size()),
                 static_cast<int64_t>(b.size()));
}

int Compare(const tensor::Range& a, const tensor::Range& b) {
  if (const int c = Compare(a.begin, b.begin)) return c;
  return Compare(a.end, b.end);
}

// Everything but dimension `dim` (and the offset) is equal.
int CompareOthers(const IndexMap& a, const IndexMap& b, int dim) {
  for (int d = 0; d < a.box().rank(); ++d) {
    if (d == dim) continue;
    if (const int c = Compare(a.box().range(d), b.box().range(d))) return c;
    if (const int c = Compare(a.modes(d), b.modes(d))) return c;
  }
  return 0;
}

bool StartsWith(const DimModes& modes, const DimModes& prefix) {
  return modes.size() >= prefix.size() &&
         std::equal(prefix.begin(), prefix.end(), modes.begin());
}

DimModes WithoutTop(const DimModes& modes) {
  return modes.empty() ? modes : DimModes(modes.begin(), modes.end() - 1);
}

// Modes of `a` followed by `b`, whose offset is `step` larger, along one
// dimension; nullopt if no digits describe that.
std::optional<DimModes> Concatenate(const DimModes& a, const DimModes& b,
                                    int64_t step, JoinRule rule) {
  if (step < 0) return std::nullopt;
  if (!a.empty()) {
    // a = lower,(k:s) goes on with lower or with lower,(j:s).
    DimModes joined = a;
    const DimModes lower = WithoutTop(a);
    Mode& top = joined.back();
    if (step / top.extent == top.stride && step % top.extent == 0) {
      if (b == lower) {
        ++top.extent;
        return joined;
      }
      if (b.size() == a.size() && StartsWith(b, lower) &&
          b.back().stride == top.stride) {
        top.extent += b.back().extent;
        return joined;
      }
    }
  }
  // a is one more repetition in front of b = a,(j:step).
  if (b.size() == a.size() + 1 && StartsWith(b, a) && b.back().stride == step) {
    DimModes joined = b;
    ++joined.back().extent;
    return joined;
  }
  if (rule == JoinRule::kRepeat && a == b) {
    DimModes joined = a;
    joined.push_back({2, step});
    return joined;
  }
  return std::nullopt;
}

std::optional<IndexMap> Join(const IndexMap& a, const IndexMap& b, int dim,
                             JoinRule rule) {
  if (a.box().range(dim).end != b.box().range(dim).begin ||
      CompareOthers(a, b, dim) != 0) {
    return std::nullopt;
  }
  std::optional<DimModes> joined =
      Concatenate(a.modes(dim), b.modes(dim),
                  b.offset_elements() - a.offset_elements(), rule);
  if (!joined) return std::nullopt;
  absl::InlinedVector<tensor::Range, 4> ranges(a.box().ranges().begin(),
                                               a.box().ranges().end());
  ranges[dim].end = b.box().range(dim).end;
  absl::StatusOr<tensor::Box> box = tensor::Box::Make(ranges);
  if (!box.ok()) return std::nullopt;  // more than 2^63 elements together
  std::vector<DimModes> modes(a.modes().begin(), a.modes().end());
  modes[dim] = *std::move(joined);
  absl::StatusOr<IndexMap> map =
      IndexMap::Make(*std::move(box), std::move(modes), a.offset_elements());
  if (!map.ok()) return std::nullopt;
  return *std::move(map);
}

std::vector<IndexMap> JoinAlong(std::vector<IndexMap> maps, int dim,
                                JoinRule rule) {
  std::sort(maps.begin(), maps.end(),
            [dim](const IndexMap& a, const IndexMap& b) {
              if (const int c = CompareOthers(a, b, dim)) return c < 0;
              return a.box().range(dim).begin < b.box().range(dim).begin;
            });
  std::vector<IndexMap> result;
  for (IndexMap& map : maps) {
    if (!result.empty()) {
      std::optional<IndexMap> joined = Join(result.back(), map, dim, rule);
      if (joined) {
        result.back() = *std::move(joined);
        continue;
      }
    }
    result.push_back(std::move(map));
  }
  return result;
}

bool BoxBefore(const IndexMap& a, const IndexMap& b) {
  for (int dim = 0; dim < a.box().rank(); ++dim) {
    if (const int c = Compare(a.box().range(dim), b.box().range(dim))) {
      return c < 0;
    }
  }
  return false;
}

}  // namespace

std::vector<IndexMap> JoinMaps(std::vector<IndexMap> maps) {
  maps.erase(
      std::remove_if(maps.begin(), maps.end(),
                     [](const IndexMap& map) { return map.box().empty(); }),
      maps.end());
  if (maps.empty()) return maps;
  const int rank = maps.front().box().rank();
  assert(absl::c_all_of(
      maps, [rank](const IndexMap& map) { return map.box().rank() == rank; }));
  for (std::size_t before = 0; maps.size() > 1 && maps.size() != before;) {
    before = maps.size();
    for (int dim = 0; dim < rank; ++dim) {
      // Nested groups join from the inside out, a level a round.
      for (std::size_t last = 0; maps.size() != last;) {
        last = maps.size();
        maps = JoinAlong(std::move(maps), dim, JoinRule::kContinue);
        maps = JoinAlong(std::move(maps), dim, JoinRule::kRepeat);
      }
    }
  }
  std::sort(maps.begin(), maps.end(), BoxBefore);
  return maps;
}

}  // namespace weft::layout
