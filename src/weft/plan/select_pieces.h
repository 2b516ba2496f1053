// Inside of room `plan`: which source fragments serve which part of which
// destination fragment. No runs yet.
#ifndef WEFT_PLAN_SELECT_PIECES_H_
#define WEFT_PLAN_SELECT_PIECES_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "weft/base/status.h"
#include "weft/manifest/placement.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/source_table.h"

namespace weft::plan {

// One use. Walks the target's fragments in placement order; keeps the bytes
// assigned to each source so far, which is what spreads replicas.
class PieceSelector {
 public:
  PieceSelector(const SourceTable& sources, const manifest::Placement& target);

  // Series ordered by (dst_stored, dst_fragment, box), disjoint and covering
  // every fragment. All faults at once: kInvalidArgument if the sides disagree
  // on a shape, else kUnimplemented if a conversion does not exist, else
  // kFailedPrecondition if somebody must hold more.
  absl::StatusOr<std::vector<MoveSeries>> Select();

 private:
  struct FragmentRef {
    int32_t stored = 0;
    int32_t fragment = 0;
    int64_t bytes = 0;
  };

  std::vector<FragmentRef> ListFragments() const;
  // The sources' entry for a target tensor, looked up once a tensor; nullptr
  // when no source knows it or, with a fault, when the shapes differ.
  const TensorEntry* EntryOf(int32_t tensor);
  void SelectFragment(int32_t dst_stored, int32_t dst_fragment);
  // Appends what the best candidate of `groups`, each of which holds some of
  // `wanted`, can serve of it.
  void Take(absl::Span<const BoxGroup* const> groups,
            const tensor::Box& wanted);
  void TakeFromDisjoint(const tensor::Box& box);
  void TakeFromOverlapping(const tensor::Box& box);
  // Adds the series of all members of `group` that hold some of `box`, which
  // lies in the group's box.
  void AddSeries(const BoxGroup& group, const Candidate& from, tensor::Box box);
  // The load of the busiest of the sources from which `from` would serve that.
  int64_t LoadOf(const BoxGroup& group, const Candidate& from,
                 const tensor::Box& wanted) const;
  void AddHole(const tensor::Box& box);
  // True if `from` holds the tensor in FP8 by another rule than the target's.
  bool OtherScheme(const Candidate& from) const;
  void CheckConversion(const Candidate& from);

  const SourceTable& sources_;
  const manifest::Placement& target_;
  std::vector<MoveSeries> series_;
  std::vector<int64_t> assigned_bytes_;  // by source
  std::vector<const TensorEntry*> entries_;
  std::vector<bool> entry_known_;
  std::vector<bool> shape_differs_;
  // By target tensor; nullptr = not quantised.
  std::vector<const tensor::ScaleScheme*> schemes_;

  // The fragment that is being served.
  int32_t dst_stored_ = 0;
  int32_t dst_fragment_ = 0;
  int32_t tensor_ = 0;
  std::vector<const BoxGroup*> matches_;

  absl::flat_hash_set<std::pair<int32_t, tensor::DType>> refused_conversions_;
  base::FaultList shape_faults_;
  base::FaultList conversion_faults_;
  base::FaultList coverage_faults_;
};

}  // namespace weft::plan

#endif  // WEFT_PLAN_SELECT_PIECES_H_
