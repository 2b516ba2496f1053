// What CheckSeries proves, and from what.
//
// Given, as for CheckCoverage: the fragments and zero fills of the target write
// each of its elements exactly once (manifest::CheckPlacement), and the groups
// of the source index say truly which sources hold which boxes (SourceIndex's
// own tests compare them with the placements). Shown here of a plan:
//
//   (a) the moves of a series are its box, cut along one dimension into parts
//       that follow each other without gap (IsSeries);
//   (b) its box lies in one destination fragment, and the parts are cut where
//       the members of a series of sources are cut, each move from the member
//       that holds its part, of the same logical tensor;
//   (c) the boxes of the series into one fragment are disjoint and together as
//       many elements as the fragment's box: they fill it;
//   (d) the zero fills are those that the target declares, each once.
//
// So every element is written exactly once, by a source that holds it. That the
// runs of a move are its box is proven where they are made (CountSeries, and
// CheckCoverage on the expanded plan).
#include "weft/plan/check_series.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/plan/box_set.h"

namespace weft::plan {
namespace {

using tensor::Box;

template <typename T>
bool HasIndex(const std::vector<T>& list, int64_t index) {
  return index >= 0 && static_cast<size_t>(index) < list.size();
}

class SeriesCheck {
 public:
  SeriesCheck(const CompactPlan& plan, const SourceTable& sources,
              const manifest::Placement& target)
      : plan_(plan),
        sources_(sources),
        target_(target),
        entries_(target.tensors.size(), nullptr),
        known_(target.tensors.size(), false) {}

  absl::Status Run();

 private:
  // False, with a fault, if the series cannot be what it says.
  bool CheckOne(const MoveSeries& series);
  // (b): a group and a candidate from whose members the series comes.
  bool HasSource(const MoveSeries& series);
  bool ComesFrom(const MoveSeries& series, const TensorEntry& entry,
                 const BoxGroup& group, const Candidate& from) const;
  void CheckFragments();
  void CheckFragment(int32_t stored, int32_t fragment,
                     absl::Span<const MoveSeries> series);
  std::string Where(const MoveSeries& series) const;

  const CompactPlan& plan_;
  const SourceTable& sources_;
  const manifest::Placement& target_;
  std::vector<const TensorEntry*> entries_;  // of the target's tensors
  std::vector<bool> known_;
  std::vector<const BoxGroup*> groups_;
  base::FaultList faults_;
};

absl::Status SeriesCheck::Run() {
  CheckSides(plan_.target_rank, plan_.source_digest, sources_, target_,
             faults_);
  bool sound = true;
  for (size_t i = 0; i < plan_.series.size(); ++i) {
    const MoveSeries& each = plan_.series[i];
    if (!CheckOne(each)) {
      sound = false;
      continue;
    }
    if (i == 0 || !sound) continue;
    const MoveSeries& last = plan_.series[i - 1];
    const auto place = [](const MoveSeries& series) {
      return std::make_pair(series.dst_stored, series.dst_fragment);
    };
    if (place(each) < place(last) ||
        (place(each) == place(last) && !LessBox(last.box, each.box))) {
      faults_.Add(absl::StrCat(Where(each), " follows ", Where(last)));
      sound = false;
    }
  }
  // Fragments need the order.
  if (sound) CheckFragments();
  CheckZeroFills(plan_.zero_fills, target_, faults_);
  return faults_.ToStatus(absl::StatusCode::kFailedPrecondition);
}

bool SeriesCheck::CheckOne(const MoveSeries& series) {
  if (!HasIndex(target_.stored, series.dst_stored) ||
      !HasIndex(target_.stored[series.dst_stored].fragments,
                series.dst_fragment) ||
      !HasIndex(target_.tensors, series.tensor)) {
    faults_.Add(absl::StrCat(
        "a series from source rank ", series.src_rank, " names tensor ",
        series.tensor, ", stored tensor ", series.dst_stored, ", fragment ",
        series.dst_fragment, ", which target rank ", target_.rank, " lacks"));
    return false;
  }
  const layout::Fragment& dst =
      target_.stored[series.dst_stored].fragments[series.dst_fragment];
  if (dst.tensor != series.tensor ||
      series.box.rank() != dst.map.box().rank() ||
      !tensor::Contains(dst.map.box(), series.box)) {
    faults_.Add(absl::StrCat(Where(series), " does not lie in the target's ",
                             dst.map.box().ToString(), " of \"",
                             target_.tensors[dst.tensor].name, "\""));
    return false;
  }
  if (!IsSeries(series)) {
    faults_.Add(absl::StrCat(
        Where(series), " is not ", series.num_moves, " moves of ", series.head,
        ", then ", series.chunk, " along dimension ", series.dim,
        " from every source rank after ", series.rank_step));
    return false;
  }
  if (!HasSource(series)) {
    faults_.Add(absl::StrCat(
        Where(series), " is not what stored tensor ", series.src_stored,
        ", fragment ", series.src_fragment, " of ", series.num_moves,
        " source ranks by ", series.rank_step, " holds as ",
        std::string(tensor::DTypeName(series.conversion.from))));
    return false;
  }
  return true;
}

bool SeriesCheck::HasSource(const MoveSeries& series) {
  if (!known_[series.tensor]) {
    known_[series.tensor] = true;
    entries_[series.tensor] =
        sources_.Find(target_.tensors[series.tensor].name);
  }
  const TensorEntry* const entry = entries_[series.tensor];
  if (entry == nullptr ||
      static_cast<int>(entry->spec->shape.size()) != series.box.rank()) {
    return false;
  }
  sources_.FindGroups(*entry, series.box, groups_);
  for (const BoxGroup* group : groups_) {
    if (!tensor::Contains(group->box, series.box)) continue;
    for (const Candidate& each : sources_.CandidatesOf(*group)) {
      if (ComesFrom(series, *entry, *group, each)) return true;
    }
  }
  return false;
}

bool SeriesCheck::ComesFrom(const MoveSeries& series, const TensorEntry& entry,
                            const BoxGroup& group,
                            const Candidate& from) const {
  const layout::StoredTensor& dst = target_.stored[series.dst_stored];
  const std::optional<tensor::Transform> transform = tensor::ComposeTransforms(
      from.transform, dst.fragments[series.dst_fragment].transform);
  if (series.src_stored != from.stored ||
      series.src_fragment != from.fragment || !transform.has_value() ||
      !(series.conversion ==
        tensor::Conversion{from.dtype, dst.dtype, *transform})) {
    return false;
  }
  const auto [first, end] = SourceTable::MembersIn(entry, group, series.box);
  const auto rank_of = [&](int64_t member) {
    return sources_.sources()[from.SourceOf(member)].placement->rank;
  };
  if (series.num_moves != end - first || series.src_rank != rank_of(first)) {
    return false;
  }
  if (series.num_moves == 1) return true;
  // The first move ends where its member does, and from there on all have the
  // same extents.
  return series.dim == entry.sort_dim && series.chunk == group.chunk &&
         series.rank_step == rank_of(first + 1) - rank_of(first) &&
         series.box.range(series.dim).begin + series.head ==
             group.box.range(series.dim).begin + (first + 1) * group.chunk;
}

void SeriesCheck::CheckFragments() {
  const absl::Span<const MoveSeries> all = plan_.series;
  size_t begin = 0;
  for (size_t s = 0; s < target_.stored.size(); ++s) {
    const auto stored = static_cast<int32_t>(s);
    for (size_t f = 0; f < target_.stored[s].fragments.size(); ++f) {
      const auto fragment = static_cast<int32_t>(f);
      size_t end = begin;
      while (end < all.size() && all[end].dst_stored == stored &&
             all[end].dst_fragment == fragment) {
        ++end;
      }
      CheckFragment(stored, fragment, all.subspan(begin, end - begin));
      begin = end;
    }
  }
}

void SeriesCheck::CheckFragment(int32_t stored, int32_t fragment,
                                absl::Span<const MoveSeries> series) {
  const layout::Fragment& dst = target_.stored[stored].fragments[fragment];
  const Box& box = dst.map.box();
  if (box.empty() && series.empty()) return;
  if (series.size() == 1 && series[0].box == box) return;
  std::vector<const Box*> boxes;
  boxes.reserve(series.size());
  int64_t elements = 0;
  for (const MoveSeries& each : series) boxes.push_back(&each.box);
  if (const auto overlap = FindOverlap(boxes)) {
    faults_.Add(
        absl::StrCat("\"", target_.stored[stored].name,
                     "\" is written twice: ", Where(series[overlap->first]),
                     " and ", Where(series[overlap->second])));
  } else {
    // Disjoint and within the box, so this is at most its elements.
    for (const Box* each : boxes) elements += each->num_elements();
    if (elements == box.num_elements()) return;
  }
  for (const Box& hole : SubtractAll(box, boxes)) {
    faults_.Add(absl::StrCat(box.ToString(), " of \"",
                             target_.tensors[dst.tensor].name, "\" in \"",
                             target_.stored[stored].name, "\" of target rank ",
                             target_.rank, ": nothing writes ", hole.ToString(),
                             "; ", sources_.MissingRanksText()));
  }
}

std::string SeriesCheck::Where(const MoveSeries& series) const {
  return absl::StrCat("series ", series.box.ToString(), " of \"",
                      target_.tensors[series.tensor].name, "\" into \"",
                      target_.stored[series.dst_stored].name,
                      "\" of target rank ", target_.rank, " from source rank ",
                      series.src_rank);
}

}  // namespace

void CheckSides(int64_t target_rank,
                const manifest::LayoutDigest& source_digest,
                const SourceTable& sources, const manifest::Placement& target,
                base::FaultList& faults) {
  if (target_rank != target.rank) {
    faults.Add(absl::StrCat("the plan is for target rank ", target_rank,
                            " but the target is rank ", target.rank));
  }
  if (source_digest != sources.digest()) {
    faults.Add(absl::StrCat("the plan is for sources ", source_digest.ToHex(),
                            " but these are ", sources.digest().ToHex()));
  }
}

bool IsSeries(const MoveSeries& series) {
  if (series.box.empty() || series.num_moves < 1) return false;
  if (series.num_moves == 1) {
    return series.rank_step == 0 && series.dim == 0 && series.head == 0 &&
           series.chunk == 0;
  }
  if (series.dim < 0 || series.dim >= series.box.rank()) return false;
  const tensor::Range& all = series.box.range(series.dim);
  if (series.rank_step < 1 || series.head < 1 || series.chunk < series.head ||
      series.head >= all.extent() ||
      !base::CheckedAdd(all.end, series.chunk).has_value()) {
    return false;
  }
  return (all.extent() - series.head - 1) / series.chunk + 1 ==
         series.num_moves - 1;
}

absl::Status CheckSeries(const CompactPlan& plan, const SourceTable& sources,
                         const manifest::Placement& target) {
  return SeriesCheck(plan, sources, target).Run();
}

}  // namespace weft::plan
