#include <utility>

#include "weft/base/status.h"
#include "weft/session/prepared_sources_internal.h"

namespace weft::session {

absl::StatusOr<std::unique_ptr<PreparedSources>> PreparedSources::Plan(
    const SourceChoice& choice, const manifest::LayoutDigest& target_digest,
    const ReceiverOptions& options, PlanCache& plans, int64_t& plans_built) {
  auto prepared = std::make_unique<PreparedSources>();
  prepared->source_set = choice.source_set;
  prepared->model_card_digest_hex = choice.model_card_digest_hex;
  prepared->sources = choice.sources;
  std::vector<plan::SourceInfo> infos;
  for (const ChosenSource& source : prepared->sources) {
    infos.push_back({.placement = &source.placement->placement,
                     .digest = source.placement->digest,
                     .distance = source.distance});
  }
  WEFT_ASSIGN_OR_RETURN(prepared->index,
                        plan::SourceIndex::Make(std::move(infos)));
  const auto build = [&] {
    const PhaseTimer planning(options.on_phase, "plan");
    PlanCache::Made made = PlanForReceiver(*prepared->index, prepared->sources,
                                           target_digest, options);
    if (made.ok()) ++plans_built;
    return made;
  };
  WEFT_ASSIGN_OR_RETURN(prepared->planned,
                        plans.FindOrMake(prepared->sources, build));
  return prepared;
}

absl::Status PreparedSources::Connect(const ReceiverOptions& options,
                                      std::optional<int64_t>& unreachable,
                                      base::Deadline deadline) {
  WEFT_ASSIGN_OR_RETURN(
      links, OpenLinks(planned->plan, sources, options, unreachable, deadline));
  connected = true;
  return absl::OkStatus();
}

void PreparedSources::Disconnect() {
  transfers = {};
  links.clear();
  connected = false;
}

absl::StatusOr<Transfer*> PreparedSources::TransferInto(
    size_t set, const RankMemory& memory, const ReceiverOptions& options) {
  std::unique_ptr<Transfer>& transfer = transfers[set];
  if (transfer == nullptr) {
    const PhaseTimer phase(options.on_phase, "bind");
    WEFT_ASSIGN_OR_RETURN(transfer, Transfer::Make({.options = options,
                                                    .memory = memory,
                                                    .index = *index,
                                                    .plan = planned->plan,
                                                    .staged = planned->staged,
                                                    .links = links}));
  }
  return transfer.get();
}

}  // namespace weft::session
