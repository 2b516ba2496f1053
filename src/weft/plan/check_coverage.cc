// What CheckCoverage proves, and from what.
//
// Given (manifest::CheckPlacement, once a placement): the fragments and zero
// fills of the target write each element of each stored tensor exactly once.
// Shown here, from the plan's moves and runs:
//
//   (a) every move names fragments that exist, of one logical tensor, and a box
//       that lies in both fragments' boxes;
//   (b) the runs of a move are exactly the pairs (src(x), dst(x)) for x in its
//       box, each once (run_proof.h), so it writes what its box says and reads
//       the same logical elements;
//   (c) the boxes of the moves into one fragment are disjoint and together as
//       many elements as the fragment's box: they fill it;
//   (d) the plan's zero fills are those that the target declares, each once.
//
// (a)-(d) and what is given make "every element written exactly once". Reads
// end within the source's stored tensor because of (a), (b) and what
// SourceIndex::Make has checked: a fragment's map ends within it. Nothing
// of how BuildPlan selects or counts is used. Witnesses are proven like moves,
// with their block of scratch as the destination.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/plan/box_set.h"
#include "weft/plan/check_series.h"
#include "weft/plan/move_runs.h"
#include "weft/plan/run_proof.h"
#include "weft/plan/source_table.h"
#include "weft/tensor/conversion.h"

namespace weft::plan {
namespace {

using layout::IndexMap;
using tensor::Box;

struct MoveRef {
  const PeerPlan* peer = nullptr;
  const Move* move = nullptr;
};

template <typename T>
bool HasIndex(const std::vector<T>& list, int32_t index) {
  return index >= 0 && static_cast<size_t>(index) < list.size();
}

bool LiesIn(const Box& outer, const Box& box) {
  return outer.rank() == box.rank() && tensor::Contains(outer, box);
}

class CoverageCheck {
 public:
  CoverageCheck(const Plan& plan, const SourceTable& sources,
                const manifest::Placement& target)
      : plan_(plan), sources_(sources), target_(target) {}

  absl::Status Run();

 private:
  void CheckPeerOrder();
  void CheckPeer(const PeerPlan& peer);
  // The source fragment, or nullptr with a fault.
  const layout::Fragment* CheckMove(const PeerPlan& peer, const Move& move,
                                    int32_t source);
  void CheckWitness(const PeerPlan& peer, const Witness& witness,
                    const manifest::Placement& source);
  void CheckFragments();
  void CheckFragment(int32_t stored, int32_t fragment,
                     absl::Span<const MoveRef> moves);
  std::string Where(const PeerPlan& peer, const Move& move) const;
  std::string Where(int32_t stored, int32_t fragment) const;

  const Plan& plan_;
  const SourceTable& sources_;
  const manifest::Placement& target_;
  std::vector<const TensorEntry*> entries_;  // of the target's tensors
  // Moves that name an existing destination, in plan order, and how many each
  // destination fragment has.
  std::vector<MoveRef> moves_;
  std::vector<size_t> first_fragment_;  // of each stored tensor
  std::vector<size_t> num_moves_;       // of each fragment
  base::FaultList faults_;
};

absl::Status CoverageCheck::Run() {
  CheckSides(plan_.target_rank, plan_.source_digest, sources_, target_,
             faults_);
  CheckPeerOrder();
  for (const tensor::TensorSpec& tensor : target_.tensors) {
    entries_.push_back(sources_.Find(tensor.name));
  }
  size_t num_moves = 0;
  for (const PeerPlan& peer : plan_.peers) num_moves += peer.moves.size();
  moves_.reserve(num_moves);
  size_t num_fragments = 0;
  for (const layout::StoredTensor& stored : target_.stored) {
    first_fragment_.push_back(num_fragments);
    num_fragments += stored.fragments.size();
  }
  num_moves_.assign(num_fragments, 0);
  for (const PeerPlan& peer : plan_.peers) CheckPeer(peer);
  CheckFragments();
  CheckZeroFills(plan_.zero_fills, target_, faults_);
  return faults_.ToStatus(absl::StatusCode::kFailedPrecondition);
}

void CoverageCheck::CheckPeerOrder() {
  for (size_t i = 1; i < plan_.peers.size(); ++i) {
    if (plan_.peers[i].src_rank <= plan_.peers[i - 1].src_rank) {
      faults_.Add(absl::StrCat("source rank ", plan_.peers[i].src_rank,
                               " follows source rank ",
                               plan_.peers[i - 1].src_rank, " in the plan"));
    }
  }
}

void CoverageCheck::CheckPeer(const PeerPlan& peer) {
  const int32_t source = sources_.SourceOfRank(peer.src_rank);
  if (source < 0) {
    faults_.Add(absl::StrCat("the plan reads source rank ", peer.src_rank,
                             ", which is not among the sources"));
    return;
  }
  const manifest::Placement& placement = *sources_.sources()[source].placement;
  for (const Move& move : peer.moves) {
    if (!HasIndex(target_.stored, move.dst_stored) ||
        !HasIndex(target_.stored[move.dst_stored].fragments,
                  move.dst_fragment) ||
        !HasIndex(target_.tensors, move.tensor)) {
      faults_.Add(absl::StrCat(
          "a move from source rank ", peer.src_rank, " names tensor ",
          move.tensor, ", stored tensor ", move.dst_stored, ", fragment ",
          move.dst_fragment, ", which target rank ", target_.rank, " lacks"));
      continue;
    }
    ++num_moves_[first_fragment_[move.dst_stored] + move.dst_fragment];
    moves_.push_back({&peer, &move});
    const layout::Fragment* src = CheckMove(peer, move, source);
    if (src == nullptr) continue;
    const layout::Fragment& dst =
        target_.stored[move.dst_stored].fragments[move.dst_fragment];
    if (const auto fault =
            FindRunFault(src->map, dst.map, move.box, move.runs)) {
      faults_.Add(absl::StrCat(Where(peer, move), ": ", *fault));
    }
  }
  for (const Witness& witness : peer.witnesses) {
    CheckWitness(peer, witness, placement);
  }
}

const layout::Fragment* CoverageCheck::CheckMove(const PeerPlan& peer,
                                                 const Move& move,
                                                 int32_t source_index) {
  const manifest::Placement& source =
      *sources_.sources()[source_index].placement;
  if (!HasIndex(source.stored, move.src_stored) ||
      !HasIndex(source.stored[move.src_stored].fragments, move.src_fragment)) {
    faults_.Add(absl::StrCat(Where(peer, move), " reads stored tensor ",
                             move.src_stored, ", fragment ", move.src_fragment,
                             ", which the source lacks"));
    return nullptr;
  }
  const layout::StoredTensor& stored = source.stored[move.src_stored];
  const layout::Fragment& src = stored.fragments[move.src_fragment];
  const layout::StoredTensor& dst_stored = target_.stored[move.dst_stored];
  const layout::Fragment& dst = dst_stored.fragments[move.dst_fragment];
  if (dst.tensor != move.tensor ||
      sources_.EntryOf(source_index, src.tensor) != entries_[move.tensor]) {
    faults_.Add(absl::StrCat(Where(peer, move), " joins \"",
                             source.tensors[src.tensor].name, "\" to \"",
                             target_.tensors[dst.tensor].name, "\""));
    return nullptr;
  }
  const std::optional<tensor::Transform> transform =
      tensor::ComposeTransforms(src.transform, dst.transform);
  if (!transform.has_value() ||
      !(move.conversion ==
        tensor::Conversion{stored.dtype, dst_stored.dtype, *transform})) {
    faults_.Add(absl::StrCat(
        Where(peer, move), " converts ", tensor::ToString(move.conversion),
        " but from ", std::string(tensor::TransformName(src.transform)), " to ",
        std::string(tensor::TransformName(dst.transform)), " it is ",
        tensor::ToString({stored.dtype, dst_stored.dtype,
                          transform.value_or(tensor::Transform::kNone)})));
  }
  if (move.box.empty() || !LiesIn(src.map.box(), move.box) ||
      !LiesIn(dst.map.box(), move.box)) {
    faults_.Add(absl::StrCat(Where(peer, move),
                             " does not lie in the source's ",
                             src.map.box().ToString(), " and the target's ",
                             dst.map.box().ToString()));
    return nullptr;
  }
  return &src;
}

void CoverageCheck::CheckWitness(const PeerPlan& peer, const Witness& witness,
                                 const manifest::Placement& source) {
  if (!HasIndex(peer.moves, witness.move)) {
    faults_.Add(absl::StrCat("a witness names move ", witness.move, " of ",
                             peer.moves.size(), " from source rank ",
                             peer.src_rank));
    return;
  }
  const Move& move = peer.moves[witness.move];
  if (!HasIndex(source.stored, move.src_stored) ||
      !HasIndex(source.stored[move.src_stored].fragments, move.src_fragment)) {
    return;  // the move's own fault
  }
  const layout::Fragment& src =
      source.stored[move.src_stored].fragments[move.src_fragment];
  const std::string where = absl::StrCat("witness ", witness.box.ToString(),
                                         " from source rank ", peer.src_rank);
  if (witness.box.empty() || !LiesIn(src.map.box(), witness.box)) {
    faults_.Add(absl::StrCat(where, " does not lie in the source's ",
                             src.map.box().ToString()));
    return;
  }
  const int64_t bytes =
      witness.box.num_elements() * tensor::ItemBytes(move.conversion.from);
  if (witness.scratch_offset_bytes < 0 ||
      witness.scratch_offset_bytes % kScratchAlignBytes != 0 ||
      witness.scratch_offset_bytes > plan_.totals.scratch_bytes - bytes) {
    faults_.Add(absl::StrCat(where, " lies at ", witness.scratch_offset_bytes,
                             " in a scratch of ", plan_.totals.scratch_bytes,
                             " bytes"));
  }
  const absl::StatusOr<IndexMap> scratch = ScratchMap(witness.box);
  if (!scratch.ok()) {
    faults_.Add(
        absl::StrCat(where, ": ", std::string(scratch.status().message())));
  } else if (const auto fault =
                 FindRunFault(src.map, *scratch, witness.box, witness.runs)) {
    faults_.Add(absl::StrCat(where, ": ", *fault));
  }
}

// Brings together the moves into each fragment, which several peers may share.
void CoverageCheck::CheckFragments() {
  std::vector<size_t> next(num_moves_.size(), 0);
  for (size_t i = 1; i < next.size(); ++i) {
    next[i] = next[i - 1] + num_moves_[i - 1];
  }
  std::vector<MoveRef> grouped(moves_.size());
  for (const MoveRef& ref : moves_) {
    grouped[next[first_fragment_[ref.move->dst_stored] +
                 ref.move->dst_fragment]++] = ref;
  }
  size_t index = 0;
  size_t begin = 0;
  for (size_t stored = 0; stored < target_.stored.size(); ++stored) {
    const size_t count = target_.stored[stored].fragments.size();
    for (size_t fragment = 0; fragment < count; ++fragment, ++index) {
      CheckFragment(
          static_cast<int32_t>(stored), static_cast<int32_t>(fragment),
          absl::MakeConstSpan(grouped).subspan(begin, num_moves_[index]));
      begin += num_moves_[index];
    }
  }
}

void CoverageCheck::CheckFragment(int32_t stored, int32_t fragment,
                                  absl::Span<const MoveRef> moves) {
  const Box& box = target_.stored[stored].fragments[fragment].map.box();
  if (box.empty() && moves.empty()) return;
  if (moves.size() == 1 && moves[0].move->box == box) return;
  std::vector<const Box*> boxes;
  boxes.reserve(moves.size());
  int64_t elements = 0;
  for (const MoveRef& ref : moves) {
    if (ref.move->box.rank() != box.rank()) return;  // a fault of the move
    boxes.push_back(&ref.move->box);
    elements += ref.move->box.num_elements();
  }
  if (const auto overlap = FindOverlap(boxes)) {
    const MoveRef& first = moves[overlap->first];
    const MoveRef& second = moves[overlap->second];
    faults_.Add(absl::StrCat(Where(stored, fragment),
                             " is written twice: ", first.move->box.ToString(),
                             " from source rank ", first.peer->src_rank,
                             " and ", second.move->box.ToString(),
                             " from source rank ", second.peer->src_rank));
  } else if (elements == box.num_elements()) {
    return;  // disjoint and, by (a), within the box: they fill it
  }
  for (const Box& hole : SubtractAll(box, boxes)) {
    faults_.Add(absl::StrCat(Where(stored, fragment), ": nothing writes ",
                             hole.ToString(), "; ",
                             sources_.MissingRanksText()));
  }
}

std::string CoverageCheck::Where(const PeerPlan& peer, const Move& move) const {
  return absl::StrCat(
      "move ", move.box.ToString(), " of \"", target_.tensors[move.tensor].name,
      "\" into \"", target_.stored[move.dst_stored].name, "\" of target rank ",
      target_.rank, " from source rank ", peer.src_rank);
}

std::string CoverageCheck::Where(int32_t stored, int32_t fragment) const {
  const layout::Fragment& each = target_.stored[stored].fragments[fragment];
  return absl::StrCat(each.map.box().ToString(), " of \"",
                      target_.tensors[each.tensor].name, "\" in \"",
                      target_.stored[stored].name, "\" of target rank ",
                      target_.rank);
}

}  // namespace

absl::Status CheckCoverage(const Plan& plan, const SourceIndex& sources,
                           const manifest::Placement& target) {
  return CoverageCheck(plan, SourceTable::Of(sources), target).Run();
}

}  // namespace weft::plan
