#include "weft/plan/diff_placements.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "weft/layout/run.h"
#include "weft/tensor/dtype.h"

namespace weft::plan {
namespace {

constexpr size_t kMaxListed = 3;
constexpr int64_t kMaxRuns = int64_t{1} << 20;

using StoredByName = std::map<std::string_view, int32_t>;

StoredByName IndexByName(const manifest::Placement& placement) {
  StoredByName index;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    index.emplace(placement.stored[i].name, static_cast<int32_t>(i));
  }
  return index;
}

// "q_proj [0,4)x[0,8) transformed by x + 1".
std::string ToString(const manifest::Placement& placement,
                     const layout::Fragment& fragment) {
  std::string text = absl::StrCat(placement.tensors[fragment.tensor].name, " ",
                                  fragment.map.box().ToString());
  if (fragment.transform != tensor::Transform::kNone) {
    absl::StrAppend(&text, " as ",
                    std::string(tensor::TransformName(fragment.transform)));
  }
  return text;
}

// One side's fragments, sorted, so that the order in which they are listed
// makes no difference.
std::vector<std::string> Texts(const manifest::Placement& placement,
                               const layout::StoredTensor& stored) {
  std::vector<std::string> texts;
  for (const layout::Fragment& fragment : stored.fragments) {
    if (!fragment.map.box().empty()) {
      texts.push_back(ToString(placement, fragment));
    }
  }
  std::sort(texts.begin(), texts.end());
  return texts;
}

std::string Brief(std::vector<std::string> texts) {
  if (texts.empty()) return "nothing";
  const size_t count = texts.size();
  texts.resize(std::min(count, kMaxListed));
  std::string text = absl::StrJoin(texts, ", ");
  if (count > kMaxListed) {
    absl::StrAppend(&text, " and ", count - kMaxListed, " more");
  }
  return text;
}

// Both put every element of their common box at the same place.
bool SamePlaces(const layout::IndexMap& a, const layout::IndexMap& b) {
  const auto runs = layout::CommonRuns(a, b, kMaxRuns);
  if (!runs.ok()) return false;
  return std::all_of(runs->begin(), runs->end(), [](const layout::Run& run) {
    return run.src_offset == run.dst_offset &&
           std::all_of(run.modes.begin(), run.modes.end(),
                       [](const layout::RunMode& mode) {
                         return mode.src_stride == mode.dst_stride;
                       });
  });
}

int64_t NumHeld(const layout::StoredTensor& stored) {
  int64_t count = 0;
  for (const layout::Fragment& fragment : stored.fragments) {
    count += fragment.map.box().num_elements();
  }
  return count;
}

enum class Likeness { kSame, kOtherPlaces, kOtherBoxes };

// Each side describes each of its elements once: if the elements on which they
// agree are as many as either has, nothing is left.
Likeness Compare(const manifest::Placement& ours, const layout::StoredTensor& a,
                 const manifest::Placement& theirs,
                 const layout::StoredTensor& b) {
  std::map<std::string_view, std::vector<const layout::Fragment*>> by_name;
  for (const layout::Fragment& fragment : b.fragments) {
    by_name[theirs.tensors[fragment.tensor].name].push_back(&fragment);
  }
  int64_t common = 0;
  bool same_places = true;
  for (const layout::Fragment& fragment : a.fragments) {
    for (const layout::Fragment* other :
         by_name[ours.tensors[fragment.tensor].name]) {
      if (fragment.transform != other->transform ||
          fragment.map.box().rank() != other->map.box().rank()) {
        continue;
      }
      const tensor::Box box =
          tensor::Intersect(fragment.map.box(), other->map.box());
      if (box.empty()) continue;
      common += box.num_elements();
      same_places = same_places && SamePlaces(fragment.map, other->map);
    }
  }
  if (common != NumHeld(a) || common != NumHeld(b)) {
    return Likeness::kOtherBoxes;
  }
  return same_places ? Likeness::kSame : Likeness::kOtherPlaces;
}

// Where the first of the fragments lie.
std::string PlacesText(const manifest::Placement& placement,
                       const layout::StoredTensor& stored) {
  std::vector<std::string> texts;
  for (const layout::Fragment& fragment : stored.fragments) {
    texts.push_back(absl::StrCat(placement.tensors[fragment.tensor].name, " ",
                                 fragment.map.ToString()));
  }
  return Brief(std::move(texts));
}

void CompareStored(const manifest::Placement& ours,
                   const layout::StoredTensor& a,
                   const manifest::Placement& theirs,
                   const layout::StoredTensor& b,
                   std::vector<StoredDifference>& differences) {
  if (a.dtype != b.dtype) {
    differences.push_back({a.name, "dtype",
                           std::string(tensor::DTypeName(a.dtype)),
                           std::string(tensor::DTypeName(b.dtype))});
  }
  if (a.shape != b.shape) {
    differences.push_back(
        {a.name, "shape", absl::StrCat("[", absl::StrJoin(a.shape, ","), "]"),
         absl::StrCat("[", absl::StrJoin(b.shape, ","), "]")});
  }
  switch (Compare(ours, a, theirs, b)) {
    case Likeness::kSame:
      return;
    case Likeness::kOtherBoxes:
      differences.push_back(
          {a.name, "boxes", Brief(Texts(ours, a)), Brief(Texts(theirs, b))});
      return;
    case Likeness::kOtherPlaces:
      // Other places are all that another shape can mean.
      if (a.shape != b.shape) return;
      differences.push_back(
          {a.name, "places", PlacesText(ours, a), PlacesText(theirs, b)});
      return;
  }
}

// Bytes by source rank of each stored tensor.
std::vector<std::map<int64_t, int64_t>> BytesBySource(
    const CompactPlan& plan, const manifest::Placement& target) {
  std::vector<std::map<int64_t, int64_t>> bytes(target.stored.size());
  for (const MoveSeries& series : plan.series) {
    const int64_t item_bytes = tensor::ItemBytes(series.conversion.from);
    for (int64_t i = 0; i < series.num_moves; ++i) {
      bytes[series.dst_stored][series.RankOf(i)] +=
          series.ElementsOf(i) * item_bytes;
    }
  }
  return bytes;
}

std::string BytesText(const std::map<int64_t, int64_t>& bytes) {
  std::vector<std::string> texts;
  for (const auto& [rank, count] : bytes) {
    texts.push_back(absl::StrCat("rank ", rank, ": ", count, " B"));
  }
  return Brief(std::move(texts));
}

}  // namespace

std::vector<StoredDifference> DiffPlacements(
    const manifest::Placement& ours, const manifest::Placement& theirs) {
  std::vector<StoredDifference> differences;
  const StoredByName our_index = IndexByName(ours);
  const StoredByName their_index = IndexByName(theirs);
  for (const auto& [name, index] : our_index) {
    const auto other = their_index.find(name);
    if (other == their_index.end()) {
      differences.push_back({std::string(name), "held", "yes", "no"});
      continue;
    }
    CompareStored(ours, ours.stored[index], theirs,
                  theirs.stored[other->second], differences);
  }
  for (const auto& [name, index] : their_index) {
    if (!our_index.contains(name)) {
      differences.push_back({std::string(name), "held", "no", "yes"});
    }
  }
  std::stable_sort(differences.begin(), differences.end(),
                   [](const StoredDifference& a, const StoredDifference& b) {
                     return a.stored < b.stored;
                   });
  return differences;
}

std::vector<StoredDifference> DiffSources(const CompactPlan& our_plan,
                                          const manifest::Placement& ours,
                                          const CompactPlan& their_plan,
                                          const manifest::Placement& theirs) {
  const auto our_bytes = BytesBySource(our_plan, ours);
  const auto their_bytes = BytesBySource(their_plan, theirs);
  const StoredByName their_index = IndexByName(theirs);
  std::vector<StoredDifference> differences;
  for (const auto& [name, index] : IndexByName(ours)) {
    const auto other = their_index.find(name);
    if (other == their_index.end() ||
        our_bytes[index] == their_bytes[other->second]) {
      continue;
    }
    differences.push_back({std::string(name), "sources",
                           BytesText(our_bytes[index]),
                           BytesText(their_bytes[other->second])});
  }
  return differences;
}

}  // namespace weft::plan
