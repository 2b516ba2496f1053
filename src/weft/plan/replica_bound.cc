#include "weft/plan/replica_bound.h"

#include <algorithm>

#include "weft/base/checked.h"
#include "weft/tensor/dtype.h"

namespace weft::plan {
namespace {

// Beyond it, sets of sources are not compared with each other: the bound is
// still true, and lower.
constexpr size_t kMaxCompared = 1024;

}  // namespace

ReplicaBound::ReplicaBound(const SourceTable& sources)
    : sources_(sources), alone_bytes_(sources.sources().size(), 0) {}

int32_t ReplicaBound::SetOf(const BoxGroup& group, int64_t member) {
  std::vector<int32_t> set;
  for (const Candidate& each : sources_.CandidatesOf(group)) {
    set.push_back(each.SourceOf(member));
  }
  std::sort(set.begin(), set.end());
  set.erase(std::unique(set.begin(), set.end()), set.end());
  const auto [it, is_new] =
      set_of_sources_.try_emplace(set, static_cast<int32_t>(sets_.size()));
  if (is_new) {
    sets_.push_back(std::move(set));
    set_bytes_.push_back(0);
  }
  return it->second;
}

void ReplicaBound::Add(const TensorEntry& entry, const MoveSeries& series) {
  sources_.FindGroups(entry, series.box, groups_);
  // Other cuts of the same elements: who holds all of a move is not said.
  // Whatever is left out makes the bound lower, not wrong.
  if (groups_.size() != 1) return;
  const BoxGroup& group = *groups_[0];
  const int64_t item_bytes = tensor::ItemBytes(series.conversion.from);
  const int64_t first = SourceTable::MembersIn(entry, group, series.box).first;
  std::vector<int32_t>* sets = nullptr;
  if (group.count > 1) {
    sets = &sets_of_group_[&group];
    if (sets->empty()) {
      for (int64_t member = 0; member < group.members; ++member) {
        sets->push_back(SetOf(group, member));
      }
    }
  }
  const Candidate& alone = sources_.CandidatesOf(group)[0];
  const auto add = [&](int64_t member, int64_t bytes) {
    (sets == nullptr ? alone_bytes_[alone.SourceOf(member)]
                     : set_bytes_[(*sets)[member]]) += bytes;
  };
  if (series.num_moves == 1) {
    add(first, series.box.num_elements() * item_bytes);
    return;
  }
  const int64_t extent = series.box.extent(series.dim);
  const int64_t row_bytes = series.box.num_elements() / extent * item_bytes;
  int64_t rows = series.head;
  int64_t rest = extent;
  for (int64_t move = 0; move < series.num_moves; ++move) {
    add(first + move, rows * row_bytes);
    rest -= rows;
    rows = std::min(series.chunk, rest);
  }
}

int64_t ReplicaBound::LeastBytes() const {
  int64_t least = 0;
  for (const int64_t bytes : alone_bytes_) least = std::max(least, bytes);
  const bool compare = sets_.size() <= kMaxCompared;
  for (size_t s = 0; s < sets_.size(); ++s) {
    const std::vector<int32_t>& set = sets_[s];
    int64_t bytes = compare ? 0 : set_bytes_[s];
    for (const int32_t source : set) bytes += alone_bytes_[source];
    for (size_t t = 0; compare && t < sets_.size(); ++t) {
      if (std::includes(set.begin(), set.end(), sets_[t].begin(),
                        sets_[t].end())) {
        bytes += set_bytes_[t];
      }
    }
    least =
        std::max(least, base::CeilDiv(bytes, static_cast<int64_t>(set.size())));
  }
  return least;
}

}  // namespace weft::plan
