#include "weft/plan/select_pieces.h"

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/plan/box_set.h"
#include "weft/tensor/conversion.h"

namespace weft::plan {
namespace {

using tensor::Box;

// What a conversion costs in truth: none, exact, lossy, impossible.
int Harm(const Candidate& from, tensor::DType to, tensor::Transform transform) {
  const std::optional<tensor::Transform> composed =
      tensor::ComposeTransforms(from.transform, transform);
  if (!composed.has_value()) return 3;
  const tensor::Conversion conversion{from.dtype, to, *composed};
  if (conversion.identity()) return 0;
  if (!tensor::CheckSupported(conversion).ok()) return 3;
  return tensor::IsLossy(conversion) ? 2 : 1;
}

// The sum of the digits of `rank` in base `count`, modulo `count`. Receivers
// with equal needs are neighbours, or every eighth rank, or blocks of either;
// `rank` modulo `count` would give every eighth one the same of four replicas,
// this deals all of them out evenly.
int64_t SpreadOf(int64_t rank, int64_t count) {
  int64_t sum = 0;
  for (; rank > 0; rank /= count) sum += rank % count;
  return sum % count;
}

absl::Status MergeFaults(const base::FaultList& first,
                         const base::FaultList& second,
                         const base::FaultList& third, absl::StatusCode code) {
  base::FaultList all;
  for (const base::FaultList* list : {&first, &second, &third}) {
    for (const std::string& fault : list->faults()) all.Add(fault);
  }
  return all.ToStatus(code);
}

}  // namespace

PieceSelector::PieceSelector(const SourceTable& sources,
                             const manifest::Placement& target)
    : sources_(sources),
      target_(target),
      assigned_bytes_(sources.sources().size(), 0),
      entries_(target.tensors.size(), nullptr),
      entry_known_(target.tensors.size(), false),
      shape_differs_(target.tensors.size(), false),
      schemes_(target.tensors.size(), nullptr) {
  for (const layout::ScaledTensor& scaled : target.scaled) {
    schemes_[scaled.tensor] = &scaled.scheme;
  }
}

absl::StatusOr<std::vector<MoveSeries>> PieceSelector::Select() {
  for (const FragmentRef& each : ListFragments()) {
    SelectFragment(each.stored, each.fragment);
  }
  absl::StatusCode code = absl::StatusCode::kFailedPrecondition;
  if (!conversion_faults_.empty()) code = absl::StatusCode::kUnimplemented;
  if (!shape_faults_.empty()) code = absl::StatusCode::kInvalidArgument;
  WEFT_RETURN_IF_ERROR(
      MergeFaults(shape_faults_, conversion_faults_, coverage_faults_, code));
  const auto less = [](const MoveSeries& a, const MoveSeries& b) {
    if (a.dst_stored != b.dst_stored) return a.dst_stored < b.dst_stored;
    if (a.dst_fragment != b.dst_fragment) {
      return a.dst_fragment < b.dst_fragment;
    }
    return LessBox(a.box, b.box);
  };
  if (!std::is_sorted(series_.begin(), series_.end(), less)) {
    std::sort(series_.begin(), series_.end(), less);
  }
  return std::move(series_);
}

// In the order in which they choose their sources.
std::vector<PieceSelector::FragmentRef> PieceSelector::ListFragments() const {
  std::vector<FragmentRef> all;
  for (size_t stored = 0; stored < target_.stored.size(); ++stored) {
    const layout::StoredTensor& each = target_.stored[stored];
    for (size_t fragment = 0; fragment < each.fragments.size(); ++fragment) {
      all.push_back({static_cast<int32_t>(stored),
                     static_cast<int32_t>(fragment),
                     each.fragments[fragment].map.box().num_elements() *
                         tensor::ItemBytes(each.dtype)});
    }
  }
  if (sources_.has_replicas()) {
    // The large ones first: what is small evens out what they left uneven.
    std::stable_sort(all.begin(), all.end(),
                     [](const FragmentRef& a, const FragmentRef& b) {
                       return a.bytes > b.bytes;
                     });
  }
  return all;
}

const TensorEntry* PieceSelector::EntryOf(int32_t tensor) {
  if (entry_known_[tensor]) return entries_[tensor];
  entry_known_[tensor] = true;
  const tensor::TensorSpec& spec = target_.tensors[tensor];
  const TensorEntry* entry = sources_.Find(spec.name);
  if (entry != nullptr && entry->spec->shape != spec.shape) {
    shape_faults_.Add(absl::StrCat("tensor \"", spec.name, "\" has shape ",
                                   tensor::ShapeToString(entry->spec->shape),
                                   " at source rank ", entry->spec_rank,
                                   " but ", tensor::ShapeToString(spec.shape),
                                   " at target rank ", target_.rank));
    entry = nullptr;
    shape_differs_[tensor] = true;
  }
  entries_[tensor] = entry;
  return entry;
}

void PieceSelector::SelectFragment(int32_t dst_stored, int32_t dst_fragment) {
  const layout::Fragment& fragment =
      target_.stored[dst_stored].fragments[dst_fragment];
  const Box& box = fragment.map.box();
  if (box.empty()) return;
  dst_stored_ = dst_stored;
  dst_fragment_ = dst_fragment;
  tensor_ = fragment.tensor;
  const TensorEntry* entry = EntryOf(fragment.tensor);
  if (entry == nullptr) {
    if (!shape_differs_[tensor_]) AddHole(box);
    return;
  }
  sources_.FindGroups(*entry, box, matches_);
  if (entry->disjoint) {
    TakeFromDisjoint(box);
  } else {
    TakeFromOverlapping(box);
  }
}

void PieceSelector::TakeFromDisjoint(const Box& box) {
  int64_t missing = box.num_elements();
  for (const BoxGroup*& group : matches_) {
    Take(absl::MakeConstSpan(&group, 1), box);
    missing -= series_.back().box.num_elements();
  }
  if (missing == 0) return;
  std::vector<const Box*> held;
  for (const BoxGroup* group : matches_) held.push_back(&group->box);
  for (const Box& hole : SubtractAll(box, held)) AddHole(hole);
}

void PieceSelector::TakeFromOverlapping(const Box& box) {
  std::vector<Box> remaining = {box};
  std::vector<const BoxGroup*> holders;
  while (!remaining.empty()) {
    const Box rest = std::move(remaining.back());
    remaining.pop_back();
    holders.clear();
    for (const BoxGroup* group : matches_) {
      if (Overlaps(group->box, rest)) holders.push_back(group);
    }
    if (holders.empty()) {
      AddHole(rest);
      continue;
    }
    Take(holders, rest);
    for (Box& piece : tensor::Subtract(rest, series_.back().box)) {
      remaining.push_back(std::move(piece));
    }
  }
}

void PieceSelector::Take(absl::Span<const BoxGroup* const> groups,
                         const Box& wanted) {
  const layout::StoredTensor& dst = target_.stored[dst_stored_];
  const tensor::Transform transform = dst.fragments[dst_fragment_].transform;
  int64_t count = 0;
  for (const BoxGroup* group : groups) count += group->count;
  // Receivers with equal needs begin at different replicas.
  const int64_t first_turn = count > 1 ? SpreadOf(target_.rank, count) : 0;
  const Candidate* best = nullptr;
  const BoxGroup* best_group = nullptr;
  std::tuple<int, int32_t, int64_t, int64_t> best_key;
  int64_t position = 0;
  for (const BoxGroup* group : groups) {
    for (const Candidate& each : sources_.CandidatesOf(*group)) {
      const int64_t turn = (position++ - first_turn + count) % count;
      const std::tuple<int, int32_t, int64_t, int64_t> key(
          OtherScheme(each) ? 3 : Harm(each, dst.dtype, transform),
          each.distance, count > 1 ? LoadOf(*group, each, wanted) : 0, turn);
      if (best == nullptr || key < best_key) {
        best = &each;
        best_group = group;
        best_key = key;
      }
    }
  }
  if (std::get<0>(best_key) == 3) CheckConversion(*best);
  AddSeries(*best_group, *best,
            tensor::Contains(wanted, best_group->box)
                ? best_group->box
                : tensor::Intersect(wanted, best_group->box));
}

int64_t PieceSelector::LoadOf(const BoxGroup& group, const Candidate& from,
                              const Box& wanted) const {
  const auto [first, end] =
      SourceTable::MembersIn(*entries_[tensor_], group, wanted);
  int64_t load = 0;
  for (int64_t member = first; member < end; ++member) {
    load = std::max(load, assigned_bytes_[from.SourceOf(member)]);
  }
  return load;
}

void PieceSelector::AddSeries(const BoxGroup& group, const Candidate& from,
                              Box box) {
  const TensorEntry& entry = *entries_[tensor_];
  const layout::StoredTensor& dst = target_.stored[dst_stored_];
  const auto [first, end] = SourceTable::MembersIn(entry, group, box);
  const auto rank_of = [&](int64_t member) {
    return sources_.sources()[from.SourceOf(member)].placement->rank;
  };
  MoveSeries& series = series_.emplace_back();
  series.tensor = tensor_;
  series.src_stored = from.stored;
  series.src_fragment = from.fragment;
  series.dst_stored = dst_stored_;
  series.dst_fragment = dst_fragment_;
  // A pair of transforms that do not compose is among the faults by now.
  series.conversion = {
      from.dtype, dst.dtype,
      tensor::ComposeTransforms(from.transform,
                                dst.fragments[dst_fragment_].transform)
          .value_or(tensor::Transform::kNone)};
  series.box = std::move(box);
  series.src_rank = rank_of(first);
  series.num_moves = end - first;
  if (end - first > 1) {
    const tensor::Range& all = group.box.range(entry.sort_dim);
    series.rank_step = rank_of(first + 1) - series.src_rank;
    series.dim = entry.sort_dim;
    series.chunk = group.chunk;
    series.head = all.begin + (first + 1) * group.chunk -
                  series.box.range(series.dim).begin;
  }
  if (!sources_.has_replicas()) return;  // nobody asks for the load
  // By hand and not by ElementsOf: this is done for every move of the plan.
  const int64_t item_bytes = tensor::ItemBytes(from.dtype);
  if (end - first == 1) {
    assigned_bytes_[from.SourceOf(first)] +=
        series.box.num_elements() * item_bytes;
    return;
  }
  const int64_t extent = series.box.extent(series.dim);
  const int64_t row_bytes = series.box.num_elements() / extent * item_bytes;
  int64_t rows = series.head;
  int64_t rest = extent;
  for (int64_t member = first; member < end; ++member) {
    assigned_bytes_[from.SourceOf(member)] += rows * row_bytes;
    rest -= rows;
    rows = std::min(series.chunk, rest);
  }
}

void PieceSelector::AddHole(const Box& box) {
  coverage_faults_.Add(absl::StrCat("no source holds ", box.ToString(),
                                    " of \"", target_.tensors[tensor_].name,
                                    "\" needed by target rank ", target_.rank,
                                    "; ", sources_.MissingRanksText()));
}

bool PieceSelector::OtherScheme(const Candidate& from) const {
  if (from.dtype != tensor::DType::kF8E4M3) return false;
  const std::optional<tensor::ScaleScheme>& theirs = entries_[tensor_]->scheme;
  const tensor::ScaleScheme* const ours = schemes_[tensor_];
  return theirs.has_value() && (ours == nullptr || !(*theirs == *ours));
}

void PieceSelector::CheckConversion(const Candidate& from) {
  const layout::StoredTensor& dst = target_.stored[dst_stored_];
  if (!refused_conversions_.insert({dst_stored_, from.dtype}).second) return;
  const tensor::Transform to = dst.fragments[dst_fragment_].transform;
  const std::optional<tensor::Transform> composed =
      tensor::ComposeTransforms(from.transform, to);
  absl::Status supported;
  if (OtherScheme(from)) {
    supported = absl::UnimplementedError(absl::StrCat(
        "no conversion from ", tensor::ToString(*entries_[tensor_]->scheme),
        schemes_[tensor_] == nullptr
            ? std::string(" scales to none")
            : absl::StrCat(" to ", tensor::ToString(*schemes_[tensor_]),
                           " scales")));
  } else if (!composed.has_value()) {
    supported = absl::UnimplementedError(absl::StrCat(
        "no way from ", std::string(tensor::TransformName(from.transform)),
        " to ", std::string(tensor::TransformName(to))));
  } else {
    supported = tensor::CheckSupported({from.dtype, dst.dtype, *composed});
  }
  conversion_faults_.Add(absl::StrCat(
      std::string(supported.message()), ": \"", target_.tensors[tensor_].name,
      "\" is stored in \"", sources_.StoredOf(from).name, "\" by source rank ",
      sources_.sources()[from.source].placement->rank, " and in \"", dst.name,
      "\" by target rank ", target_.rank));
}

}  // namespace weft::plan
