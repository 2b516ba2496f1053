#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/session/epoch_word.h"
#include "weft/session/lost_sources_internal.h"

namespace weft::session {
namespace {

// A peer that lives answers at once; one that does not must not take the time
// that the others need.
constexpr std::chrono::seconds kAskWithin(1);

// Why it is lost; empty if it is not.
std::string WhyLost(SourceLink& link, bool is_copy,
                    const catalog::VersionId& version, bool bytes_differ,
                    const absl::Status& failure) {
  if (const absl::Status health = link.peer().Health(); !health.ok()) {
    return std::string(health.message());
  }
  if (is_copy && bytes_differ) return std::string(failure.message());
  // What is still in flight would be taken for the answer.
  if (link.peer().in_flight() > 0) return "";
  const absl::StatusOr<uint64_t> word =
      link.ReadEpochWord(base::Deadline::After(kAskWithin));
  if (!word.ok()) return std::string(word.status().message());
  if (is_copy && *word != EpochWord(version)) {
    return absl::StrCat("it no longer holds ", catalog::ToString(version));
  }
  return "";
}

const ChosenSource* Find(absl::Span<const ChosenSource> sources, int64_t rank) {
  const auto found = std::find_if(
      sources.begin(), sources.end(),
      [&](const auto& source) { return source.record.rank == rank; });
  return found == sources.end() ? nullptr : &*found;
}

}  // namespace

std::vector<LostSource> FindLost(
    absl::Span<const std::unique_ptr<SourceLink>> links,
    absl::Span<const ChosenSource> sources, const catalog::VersionId& version,
    const std::set<int64_t>& failed_ranks, const absl::Status& failure,
    base::Deadline deadline) {
  std::vector<LostSource> lost;
  for (const auto& link : links) {
    if (deadline.Passed()) return {};
    const ChosenSource* source = Find(sources, link->rank());
    std::string why =
        WhyLost(*link, source != nullptr && source->is_copy(), version,
                failed_ranks.contains(link->rank()), failure);
    if (why.empty()) continue;
    lost.push_back({link->rank(), link->name(), std::move(why)});
  }
  return lost;
}

std::vector<ReplacedSource> DescribeReplacements(
    absl::Span<const LostSource> lost, const plan::Plan& before,
    const plan::Plan& after, absl::Span<const ChosenSource> sources) {
  std::vector<ReplacedSource> replaced;
  for (const LostSource& each : lost) {
    std::map<std::pair<int32_t, int32_t>, std::vector<const tensor::Box*>>
        boxes;
    for (const plan::PeerPlan& peer : before.peers) {
      if (peer.src_rank != each.rank) continue;
      for (const plan::Move& move : peer.moves) {
        boxes[{move.dst_stored, move.dst_fragment}].push_back(&move.box);
      }
    }
    ReplacedSource& out = replaced.emplace_back();
    out.source = each.name;
    out.why = each.why;
    for (const plan::PeerPlan& peer : after.peers) {
      const bool stands_in = std::any_of(
          peer.moves.begin(), peer.moves.end(), [&](const plan::Move& move) {
            const auto of_lost =
                boxes.find({move.dst_stored, move.dst_fragment});
            return of_lost != boxes.end() &&
                   std::any_of(
                       of_lost->second.begin(), of_lost->second.end(),
                       [&](const tensor::Box* box) {
                         return !tensor::Intersect(*box, move.box).empty();
                       });
          });
      const ChosenSource* source = Find(sources, peer.src_rank);
      if (stands_in && source != nullptr) out.by.push_back(source->name);
    }
  }
  return replaced;
}

}  // namespace weft::session
