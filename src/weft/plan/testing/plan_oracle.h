// Test support of room `plan`: a plan carried out element by element on the
// labels of a random world.
#ifndef WEFT_PLAN_TESTING_PLAN_ORACLE_H_
#define WEFT_PLAN_TESTING_PLAN_ORACLE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/plan/plan.h"
#include "weft/plan/testing/random_world.h"

namespace weft::plan::testing {

inline constexpr int64_t kUnwritten = -3;

// Every pair of a run, one element at a time.
inline void ForEachPair(const layout::Run& run,
                        const std::function<void(int64_t, int64_t)>& visit) {
  const int64_t count = run.num_elements();
  for (int64_t i = 0; i < count; ++i) {
    int64_t rest = i, src = run.src_offset, dst = run.dst_offset;
    for (size_t k = run.modes.size(); k-- > 0;) {
      const int64_t digit = rest % run.modes[k].extent;
      rest /= run.modes[k].extent;
      src += digit * run.modes[k].src_stride;
      dst += digit * run.modes[k].dst_stride;
    }
    visit(src, dst);
  }
}

struct Image {
  std::vector<std::vector<int64_t>> labels;  // [stored][element]
  std::vector<std::vector<int>> writes;
  std::string fault;
};

inline Image EmptyImage(const Rank& target) {
  Image image;
  for (const auto& labels : target.labels) {
    image.labels.emplace_back(labels.size(), kUnwritten);
    image.writes.emplace_back(labels.size(), 0);
  }
  return image;
}

// The plan carried out on labels.
inline Image Apply(const Plan& plan, const World& world, const Rank& target) {
  Image image = EmptyImage(target);
  const auto write = [&](int32_t stored, int64_t at, int64_t label) {
    if (at < 0 || at >= static_cast<int64_t>(image.labels[stored].size())) {
      image.fault = absl::StrCat("write at ", at, " of stored ", stored);
      return;
    }
    image.labels[stored][at] = label;
    ++image.writes[stored][at];
  };
  for (const PeerPlan& peer : plan.peers) {
    const Rank& source = world.sources[peer.src_rank];
    for (const Move& move : peer.moves) {
      const auto& from = source.labels[move.src_stored];
      for (const layout::Run& run : move.runs) {
        ForEachPair(run, [&](int64_t src, int64_t dst) {
          if (src < 0 || src >= static_cast<int64_t>(from.size())) {
            image.fault = absl::StrCat("read at ", src);
            return;
          }
          write(move.dst_stored, dst, from[src]);
        });
      }
    }
  }
  for (const ZeroFill& fill : plan.zero_fills) {
    const auto& shape = target.placement.stored[fill.dst_stored].shape;
    ForEach(fill.box, [&](const Coords& x) {
      int64_t at = 0;
      for (size_t dim = 0; dim < x.size(); ++dim) at = at * shape[dim] + x[dim];
      write(fill.dst_stored, at, kZeroFill);
    });
  }
  return image;
}

// Empty when the plan makes exactly what the target declares.
inline std::string CompareWithOracle(const Plan& plan, const World& world,
                                     const Rank& target) {
  const Image image = Apply(plan, world, target);
  if (!image.fault.empty()) return image.fault;
  for (size_t stored = 0; stored < target.labels.size(); ++stored) {
    for (size_t at = 0; at < target.labels[stored].size(); ++at) {
      if (image.writes[stored][at] != 1 ||
          image.labels[stored][at] != target.labels[stored][at]) {
        return absl::StrCat("element ", at, " of stored ", stored, ": written ",
                            image.writes[stored][at], " times, holds ",
                            image.labels[stored][at], ", expected ",
                            target.labels[stored][at]);
      }
    }
  }
  return "";
}

}  // namespace weft::plan::testing

#endif  // WEFT_PLAN_TESTING_PLAN_ORACLE_H_
