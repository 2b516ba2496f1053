#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/session/control_reads_internal.h"
#include "weft/session/epoch_word.h"
#include "weft/session/lost_sources_internal.h"

namespace weft::session {
namespace {

// A peer that lives answers at once; one that does not must not take the time
// that the others need.
constexpr std::chrono::seconds kAskWithin(1);

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
  if (deadline.Passed()) return {};
  // Why each is lost; empty: it is not.
  std::vector<std::string> why(links.size());
  const auto is_copy = [&](size_t i) {
    const ChosenSource* const source = Find(sources, links[i]->rank());
    return source != nullptr && source->is_copy();
  };
  std::vector<size_t> asked;
  std::vector<SourceLink*> asked_links;
  for (size_t i = 0; i < links.size(); ++i) {
    SourceLink& link = *links[i];
    if (const absl::Status health = link.peer().Health(); !health.ok()) {
      why[i] = std::string(health.message());
    } else if (is_copy(i) && failed_ranks.contains(link.rank())) {
      why[i] = std::string(failure.message());
    } else if (link.peer().in_flight() == 0) {
      // What is still in flight would be taken for the answer.
      asked.push_back(i);
      asked_links.push_back(&link);
    }
  }
  const std::vector<absl::StatusOr<uint64_t>> words =
      ReadEpochWords(asked_links, base::Deadline::After(kAskWithin));
  for (size_t w = 0; w < asked.size(); ++w) {
    if (!words[w].ok()) {
      why[asked[w]] = std::string(words[w].status().message());
    } else if (is_copy(asked[w]) && *words[w] != EpochWord(version)) {
      why[asked[w]] =
          absl::StrCat("it no longer holds ", catalog::ToString(version));
    }
  }
  std::vector<LostSource> lost;
  for (size_t i = 0; i < links.size(); ++i) {
    if (why[i].empty()) continue;
    lost.push_back({links[i]->rank(), links[i]->name(), std::move(why[i])});
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
