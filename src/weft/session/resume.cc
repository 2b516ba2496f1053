// The rest of a transfer that was interrupted.
#include <chrono>
#include <utility>
#include <vector>

#include "weft/base/status.h"
#include "weft/plan/count_plan.h"
#include "weft/session/epoch_word.h"
#include "weft/session/transfer_internal.h"

namespace weft::session {
namespace {

using std::chrono::steady_clock;

// `plan` with nothing to move: its witnesses are read to where they were, and
// every index stays what it was. Scalars have no range to empty and are moved:
// they bring nothing but what the version holds.
plan::Plan OnlyWitnesses(plan::Plan plan) {
  for (plan::PeerPlan& peer : plan.peers) {
    for (plan::Move& move : peer.moves) {
      if (move.box.rank() == 0) continue;
      std::vector<tensor::Range> nothing;
      for (const tensor::Range& range : move.box.ranges()) {
        nothing.push_back({range.begin, range.begin});
      }
      move.box = *tensor::Box::Make(nothing);
      move.runs.clear();
    }
  }
  return plan;
}

// `plan` without the moves that are in place.
plan::Plan WithoutMoves(const plan::Plan& plan,
                        const std::vector<uint8_t>& in_place) {
  size_t next = 0;
  return std::move(plan::SplitMoves(plan, 2, [&](const plan::Move&) -> size_t {
    return in_place[next++] != 0 ? 0 : 1;
  })[1]);
}

}  // namespace

absl::Status Transfer::ResumeDirect(const catalog::VersionId& version,
                                    base::Deadline deadline,
                                    RefitReport& report) {
  const auto start = steady_clock::now();
  const convert::DigestConstants constants =
      convert::DigestConstants::FromSeed(DigestSeed(version));
  const plan::Plan witness_plan = OnlyWitnesses(*direct_->plan);
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<execute::Program> witnesses,
                        BindProgram(witness_plan, in_.options.execute));
  WEFT_ASSIGN_OR_RETURN(const execute::ExecuteReport read,
                        witnesses->Run(deadline));
  report.execute.bytes_on_wire += read.bytes_on_wire;
  WEFT_RETURN_IF_ERROR(ReadTables(*direct_, deadline));
  direct_->arrival->Begin(*in_.options.kernels, &constants);
  const ArrivalCheck::Sieve sieve = direct_->arrival->FindInPlace(
      *witnesses, direct_->tables, in_.options.execute.num_threads);
  report.bytes_resumed = sieve.bytes_in_place;
  report.tiles_checked += sieve.result.tiles_checked;
  digest_ += sieve.result.digest;
  report.verify_seconds +=
      std::chrono::duration<double>(steady_clock::now() - start).count();
  const plan::Plan rest = WithoutMoves(*direct_->plan, sieve.in_place);
  if (rest.peers.empty()) return absl::OkStatus();
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<Part> part, Bind(rest));
  return RunPart(*part, version, deadline, report);
}

}  // namespace weft::session
