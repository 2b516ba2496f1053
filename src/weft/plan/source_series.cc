// How the fragments of all sources become groups: replicas that hold the same
// box, and series of shards that follow each other (source_table.h).
#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "weft/plan/box_set.h"
#include "weft/plan/source_table.h"

namespace weft::plan {
namespace {

using tensor::Box;
using tensor::Range;

// Order by all ranges but that of `dim`, then by that one: the shards of a
// series become neighbours.
bool LessAcross(const Box& a, const Box& b, int dim) {
  for (int each = 0; each < a.rank(); ++each) {
    if (each == dim) continue;
    const Range& left = a.range(each);
    const Range& right = b.range(each);
    if (left.begin != right.begin) return left.begin < right.begin;
    if (left.end != right.end) return left.end < right.end;
  }
  if (dim < 0) return false;
  const Range& left = a.range(dim);
  const Range& right = b.range(dim);
  return left.begin != right.begin ? left.begin < right.begin
                                   : left.end < right.end;
}

bool EqualAcross(const Box& a, const Box& b, int dim) {
  for (int each = 0; each < a.rank(); ++each) {
    if (each != dim && !(a.range(each) == b.range(each))) return false;
  }
  return true;
}

bool SameStorage(const layout::IndexMap& a, const layout::IndexMap& b) {
  return a.offset_elements() == b.offset_elements() && a.modes() == b.modes();
}

}  // namespace

// Appends the groups of one entry.
class SourceTable::EntryMaker {
 public:
  EntryMaker(SourceTable& table, TensorEntry& entry, absl::Span<Record> records)
      : table_(table), entry_(entry), records_(records) {}

  void Run();

 private:
  void Sort();
  // One group from the records [begin, end), which hold the same box.
  void AddGroup(size_t begin, size_t end);
  // Makes those records the next member of the last group, if they are that.
  bool ContinuesSeries(size_t begin, size_t end);
  int64_t RankOf(const Candidate& candidate) const {
    return table_.sources_[candidate.source].placement->rank;
  }

  SourceTable& table_;
  TensorEntry& entry_;
  absl::Span<Record> records_;
  std::vector<BoxGroup> groups_;
  // Of the last group: its first record, and where its last member begins.
  size_t first_record_ = 0;
  size_t last_record_ = 0;
};

void SourceTable::EntryMaker::Sort() {
  std::vector<const Box*> boxes;
  boxes.reserve(records_.size());
  for (const Record& record : records_) boxes.push_back(&record.map->box());
  const int dim = MostCutDimension(boxes);
  entry_.sort_dim = dim;
  const auto less = [dim](const Record& a, const Record& b) {
    return LessAcross(a.map->box(), b.map->box(), dim);
  };
  if (!std::is_sorted(records_.begin(), records_.end(), less)) {
    // Stable: replicas stay in the order of (source, stored, fragment).
    std::stable_sort(records_.begin(), records_.end(), less);
  }
}

bool SourceTable::EntryMaker::ContinuesSeries(size_t begin, size_t end) {
  const int dim = entry_.sort_dim;
  if (groups_.empty() || dim < 0) return false;
  BoxGroup& series = groups_.back();
  const Box& box = records_[begin].map->box();
  const Range& range = box.range(dim);
  const int64_t chunk = records_[first_record_].map->box().extent(dim);
  if (static_cast<size_t>(series.count) != end - begin ||
      range.begin != series.box.range(dim).end || range.extent() > chunk ||
      records_[last_record_].map->box().extent(dim) != chunk ||
      !EqualAcross(series.box, box, dim)) {
    return false;
  }
  const auto first =
      table_.candidates_.begin() + static_cast<std::ptrdiff_t>(series.first);
  for (size_t i = begin; i < end; ++i) {
    const Candidate& next = records_[i].candidate;
    const Candidate& known = first[static_cast<std::ptrdiff_t>(i - begin)];
    const Candidate& last = records_[last_record_ + i - begin].candidate;
    const Candidate& second =
        series.members == 1
            ? next
            : records_[first_record_ + (end - begin) + (i - begin)].candidate;
    const int64_t step = RankOf(second) - RankOf(known);
    if (next.stored != known.stored || next.fragment != known.fragment ||
        next.distance != known.distance || next.dtype != known.dtype ||
        next.transform != known.transform || step <= 0 ||
        next.source - last.source != second.source - known.source ||
        RankOf(next) - RankOf(last) != step) {
      return false;
    }
    if (range.extent() == chunk &&
        !SameStorage(*records_[first_record_ + i - begin].map,
                     *records_[i].map)) {
      return false;
    }
  }
  std::vector<Range> ranges(series.box.ranges().begin(),
                            series.box.ranges().end());
  ranges[dim].end = range.end;
  absl::StatusOr<Box> joined = Box::Make(ranges);
  if (!joined.ok()) return false;  // more elements than 64 bits count
  series.box = *std::move(joined);
  if (series.members == 1) {
    for (size_t i = begin; i < end; ++i) {
      Candidate& known = first[static_cast<std::ptrdiff_t>(i - begin)];
      known.source_step = records_[i].candidate.source - known.source;
    }
  }
  series.chunk = chunk;
  ++series.members;
  last_record_ = begin;
  return true;
}

void SourceTable::EntryMaker::AddGroup(size_t begin, size_t end) {
  if (ContinuesSeries(begin, end)) return;
  BoxGroup& group = groups_.emplace_back();
  group.box = records_[begin].map->box();
  group.first = static_cast<int32_t>(table_.candidates_.size());
  group.count = static_cast<int32_t>(end - begin);
  for (size_t i = begin; i < end; ++i) {
    table_.candidates_.push_back(records_[i].candidate);
  }
  first_record_ = last_record_ = begin;
}

void SourceTable::EntryMaker::Run() {
  Sort();
  for (size_t begin = 0, end = 0; begin < records_.size(); begin = end) {
    while (end < records_.size() &&
           records_[end].map->box() == records_[begin].map->box()) {
      ++end;
    }
    AddGroup(begin, end);
  }
  const int dim = entry_.sort_dim;
  std::sort(
      groups_.begin(), groups_.end(),
      [dim](const BoxGroup& a, const BoxGroup& b) {
        if (dim >= 0 && a.box.range(dim).begin != b.box.range(dim).begin) {
          return a.box.range(dim).begin < b.box.range(dim).begin;
        }
        return LessBox(a.box, b.box);
      });
  entry_.first_group = static_cast<int32_t>(table_.groups_.size());
  entry_.num_groups = static_cast<int32_t>(groups_.size());
  std::vector<const Box*> boxes;
  int64_t reach = 0;
  for (BoxGroup& group : groups_) {
    if (dim >= 0) reach = std::max(reach, group.box.range(dim).end);
    group.reach = reach;
    if (group.count > 1) table_.has_replicas_ = true;
    boxes.push_back(&group.box);
  }
  entry_.disjoint = !FindOverlap(boxes).has_value();
  if (!entry_.disjoint) table_.has_replicas_ = true;
  std::move(groups_.begin(), groups_.end(), std::back_inserter(table_.groups_));
}

std::vector<SourceTable::Record> SourceTable::ListFragments() const {
  const auto visit = [this](const auto& each) {
    for (size_t source = 0; source < sources_.size(); ++source) {
      const manifest::Placement& placement = *sources_[source].placement;
      for (size_t stored = 0; stored < placement.stored.size(); ++stored) {
        const auto& fragments = placement.stored[stored].fragments;
        for (size_t i = 0; i < fragments.size(); ++i) {
          if (fragments[i].map.box().empty()) continue;
          each(source, stored, i,
               entry_of_tensor_[source][fragments[i].tensor]);
        }
      }
    }
  };
  // Sorted by counting: there are hundreds of thousands.
  std::vector<size_t> next(entries_.size() + 1, 0);
  visit([&](size_t, size_t, size_t, int32_t entry) { ++next[entry + 1]; });
  for (size_t i = 1; i < next.size(); ++i) next[i] += next[i - 1];
  std::vector<Record> records(next.back());
  visit([&](size_t source, size_t stored, size_t i, int32_t entry) {
    const layout::StoredTensor& each =
        sources_[source].placement->stored[stored];
    Record& record = records[next[entry]++];
    record.entry = entry;
    record.candidate.source = static_cast<int32_t>(source);
    record.candidate.stored = static_cast<int32_t>(stored);
    record.candidate.fragment = static_cast<int32_t>(i);
    record.candidate.distance = sources_[source].distance;
    record.candidate.dtype = each.dtype;
    record.candidate.transform = each.fragments[i].transform;
    record.map = &each.fragments[i].map;
  });
  return records;
}

void SourceTable::IndexFragments(std::vector<Record> records) {
  groups_.reserve(entries_.size());
  for (size_t begin = 0, end = 0; begin < records.size(); begin = end) {
    while (end < records.size() && records[end].entry == records[begin].entry) {
      ++end;
    }
    EntryMaker(*this, entries_[records[begin].entry],
               absl::MakeSpan(records).subspan(begin, end - begin))
        .Run();
  }
}

void SourceTable::FindGroups(const TensorEntry& entry, const Box& box,
                             std::vector<const BoxGroup*>& matches) const {
  matches.clear();
  const absl::Span<const BoxGroup> groups = GroupsOf(entry);
  const int dim = entry.sort_dim;
  const BoxGroup* group = groups.data();
  const BoxGroup* const end = groups.data() + groups.size();
  if (dim >= 0) {
    group = std::partition_point(group, end, [&](const BoxGroup& each) {
      return each.reach <= box.range(dim).begin;
    });
  }
  for (; group != end; ++group) {
    if (dim >= 0 && group->box.range(dim).begin >= box.range(dim).end) break;
    if (Overlaps(group->box, box)) matches.push_back(group);
  }
}

std::pair<int64_t, int64_t> SourceTable::MembersIn(const TensorEntry& entry,
                                                   const BoxGroup& group,
                                                   const Box& box) {
  if (group.members == 1) return {0, 1};
  const Range& all = group.box.range(entry.sort_dim);
  const Range& wanted = box.range(entry.sort_dim);
  const int64_t begin = std::max(all.begin, wanted.begin) - all.begin;
  const int64_t last = std::min(all.end, wanted.end) - 1 - all.begin;
  return {begin / group.chunk, last / group.chunk + 1};
}

Box SourceTable::MemberBox(const TensorEntry& entry, const BoxGroup& group,
                           int64_t member) {
  if (group.members == 1) return group.box;
  const Range& all = group.box.range(entry.sort_dim);
  const int64_t begin = all.begin + member * group.chunk;
  return group.box.WithRange(entry.sort_dim,
                             {begin, std::min(all.end, begin + group.chunk)});
}

}  // namespace weft::plan
