// Inside of room `plan`: the one SourceIndex there is, with the look-up that
// the planner needs.
#ifndef WEFT_PLAN_SOURCE_TABLE_H_
#define WEFT_PLAN_SOURCE_TABLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "weft/base/status.h"
#include "weft/plan/plan.h"

namespace weft::plan {

// One fragment of one source, or of each of the sources that make a series.
struct Candidate {
  int32_t source = 0;       // index into SourceIndex::sources()
  int32_t source_step = 0;  // to the source of the next member
  int32_t stored = 0;
  int32_t fragment = 0;
  int32_t distance = 0;
  tensor::DType dtype = tensor::DType::kBF16;  // of the stored tensor
  tensor::Transform transform = tensor::Transform::kNone;  // of the fragment

  int32_t SourceOf(int64_t member) const {
    return source + static_cast<int32_t>(member) * source_step;
  }
};

// Candidates that hold exactly the same box: replicas.
//
// The shards that a tensor is cut into along one dimension, on one source after
// another, are a *series*: one group of several members. They follow each other
// along the entry's sort_dim, each of extent `chunk` but the last, which has
// the rest; they are the same fragment of the same stored tensor of their
// sources, whose ranks are an arithmetic series; and the index maps of those of
// full extent are equal but for the box. A series has one candidate for each
// replica of all of its members.
struct BoxGroup {
  tensor::Box box;    // by value: a look-up walks many groups
  int64_t reach = 0;  // largest end along sort_dim of this and earlier groups
  int64_t chunk = 0;  // 0 for a single member
  int32_t members = 1;
  int32_t first = 0;  // position of the first candidate
  int32_t count = 0;  // of candidates
};

// Who holds what of one logical tensor. Groups are sorted by their begin along
// `sort_dim`, the dimension with the most cuts (-1 for a scalar), then by box.
struct TensorEntry {
  const tensor::TensorSpec* spec = nullptr;
  int64_t spec_rank = 0;  // the rank whose placement `spec` belongs to
  int32_t first_group = 0;
  int32_t num_groups = 0;
  int sort_dim = -1;
  bool disjoint = true;  // no two groups share an element
  // By which the sources that hold it in FP8 quantised it, if any did.
  std::optional<tensor::ScaleScheme> scheme;
};

// Immutable after Build; thread-safe.
class SourceTable final : public SourceIndex {
 public:
  // As SourceIndex::Make.
  static absl::StatusOr<std::shared_ptr<const SourceTable>> Build(
      std::vector<SourceInfo> sources);
  // Every SourceIndex is a SourceTable: nothing else can derive from it.
  static const SourceTable& Of(const SourceIndex& index) {
    return static_cast<const SourceTable&>(index);
  }

  const std::vector<SourceInfo>& sources() const override { return sources_; }
  const manifest::LayoutDigest& digest() const override { return digest_; }

  // The entry of a tensor of a source; every name has one.
  const TensorEntry* EntryOf(int32_t source, int32_t tensor) const {
    return &entries_[entry_of_tensor_[source][tensor]];
  }
  absl::Span<const TensorEntry> entries() const { return entries_; }
  // True when some element is held more than once: then there is a choice.
  bool has_replicas() const { return has_replicas_; }
  // nullptr when no source names the tensor.
  const TensorEntry* Find(std::string_view tensor_name) const;
  // Index into sources(), or -1.
  int32_t SourceOfRank(int64_t rank) const;

  absl::Span<const BoxGroup> GroupsOf(const TensorEntry& entry) const {
    return absl::MakeConstSpan(groups_).subspan(entry.first_group,
                                                entry.num_groups);
  }
  absl::Span<const Candidate> CandidatesOf(const BoxGroup& group) const {
    return absl::MakeConstSpan(candidates_).subspan(group.first, group.count);
  }
  // Replaces `matches` by the groups whose boxes share an element with `box`,
  // in the entry's order. `box` must have the tensor's rank.
  void FindGroups(const TensorEntry& entry, const tensor::Box& box,
                  std::vector<const BoxGroup*>& matches) const;

  // The members of a group of `entry` that share an element with `box`, which
  // must meet the group's box: [first, second).
  static std::pair<int64_t, int64_t> MembersIn(const TensorEntry& entry,
                                               const BoxGroup& group,
                                               const tensor::Box& box);
  static tensor::Box MemberBox(const TensorEntry& entry, const BoxGroup& group,
                               int64_t member);

  const layout::StoredTensor& StoredOf(const Candidate& candidate,
                                       int64_t member = 0) const {
    return sources_[candidate.SourceOf(member)]
        .placement->stored[candidate.stored];
  }
  const layout::Fragment& FragmentOf(const Candidate& candidate,
                                     int64_t member = 0) const {
    return StoredOf(candidate, member).fragments[candidate.fragment];
  }

  // "source ranks 2,3 of 4 have not published", or that all have.
  std::string MissingRanksText() const;

 private:
  // A candidate before it has a place in the table.
  struct Record {
    int32_t entry = 0;
    Candidate candidate;
    const layout::IndexMap* map = nullptr;
  };
  class EntryMaker;  // source_series.cc

  SourceTable() = default;
  void CheckMesh(base::FaultList& faults) const;
  void NameTensors(base::FaultList& faults);
  void NameSchemes(base::FaultList& faults);
  // All fragments, sorted by entry, then source, stored tensor, fragment.
  std::vector<Record> ListFragments() const;
  // Makes groups and candidates of what ListFragments found.
  void IndexFragments(std::vector<Record> records);

  std::vector<SourceInfo> sources_;
  manifest::LayoutDigest digest_;
  absl::flat_hash_map<std::string_view, int32_t> entry_of_name_;
  // For each source, the entry of each of its tensors.
  std::vector<std::vector<int32_t>> entry_of_tensor_;
  std::vector<TensorEntry> entries_;
  std::vector<BoxGroup> groups_;
  std::vector<Candidate> candidates_;
  bool has_replicas_ = false;
};

}  // namespace weft::plan

#endif  // WEFT_PLAN_SOURCE_TABLE_H_
