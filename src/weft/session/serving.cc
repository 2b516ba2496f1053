#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/manifest/packed_bytes.h"
#include "weft/plan/stand_in.h"
#include "weft/session/arrival_check_internal.h"
#include "weft/session/copy_publisher_internal.h"
#include "weft/session/epoch_word.h"
#include "weft/session/serving_internal.h"
#include "weft/verify/compare.h"
#include "weft/verify/digest_table.h"

namespace weft::session {
namespace {

// What a refit reports as its digest, from tables over all that the placement
// has a place for.
std::string DigestOfTables(const manifest::Placement& placement,
                           const catalog::VersionId& version,
                           absl::Span<const convert::DigestValue> table) {
  const verify::TableLayout layout = verify::LayOutTables(placement);
  convert::DigestValue total;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    const auto& fragments = placement.stored[i].fragments;
    for (size_t f = 0; f < fragments.size(); ++f) {
      const tensor::Box& box = fragments[f].map.box();
      const tensor::TensorSpec& spec = placement.tensors[fragments[f].tensor];
      verify::AddToTensorDigest(
          DigestSeed(version) ^ NameHash(spec.name), spec.shape, box,
          table.subspan(
              static_cast<size_t>(layout.first_value[i][f]),
              static_cast<size_t>(tensor::TileGrid::Of(box).num_tiles)),
          total);
    }
  }
  return convert::ToHex(total);
}

// Only what came over unchanged is as good as its source.
absl::Status CheckVerbatim(const plan::Plan& plan,
                           const plan::StagedTarget& staged,
                           const manifest::Placement& target) {
  if (!staged.steps.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "it quantised ", staged.steps.size(), " parts by itself, of \"",
        target.tensors[staged.steps[0].tensor].name, "\" among others"));
  }
  for (const plan::PeerPlan& peer : plan.peers) {
    for (const plan::Move& move : peer.moves) {
      if (move.conversion.identity()) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("it converts \"", target.tensors[move.tensor].name,
                       "\", among others"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Serving::CheckOptions(const ReceiverOptions& options) {
  if (options.serve && !options.verify) {
    return absl::InvalidArgumentError(
        "a receiver that does not verify what it gets cannot serve it");
  }
  if (options.serve && options.shadow.swap) {
    return absl::UnimplementedError(
        "a receiver whose engine swaps addresses does not serve others");
  }
  return absl::OkStatus();
}

std::vector<std::string> Serving::HeldShards(const PreparedSources& from) {
  std::set<std::string> held;
  for (const ChosenSource& source : from.sources) {
    if (source.record.shard_keys.empty()) continue;
    const auto [known, is_new] =
        is_held_.try_emplace(source.record.placement_digest_hex, false);
    if (is_new) {
      known->second =
          plan::CanStandInFor(options_.placement, source.placement->placement);
    }
    if (!known->second) continue;
    held.insert(source.record.shard_keys.begin(),
                source.record.shard_keys.end());
  }
  if (static_cast<int64_t>(held.size()) > catalog::kMaxHeldShards) return {};
  return {held.begin(), held.end()};
}

absl::Status Serving::Serve(const catalog::VersionId& version,
                            const std::string& digest_hex,
                            const PreparedSources& from,
                            base::Deadline deadline) {
  WEFT_RETURN_IF_ERROR(
      base::Annotate(CheckVerbatim(from.planned->plan, from.planned->staged,
                                   options_.placement),
                     "this receiver cannot serve what it holds"));
  std::vector<std::string> held = HeldShards(from);
  // A word that turned odd never shows its version again: who has read from the
  // memory before and after could not know of what was between.
  if (copy_ == nullptr || newest_.run_id != version.run_id ||
      newest_.epoch != version.epoch || version.step <= newest_.step ||
      !copy_->Health().ok() ||
      !std::includes(held_shards_.begin(), held_shards_.end(), held.begin(),
                     held.end())) {
    WEFT_RETURN_IF_ERROR(Register(version, from, std::move(held), deadline));
  }
  newest_ = version;
  expected_digest_hex_ = digest_hex;
  return copy_->Publish(version.step, deadline).status();
}

absl::Status Serving::Register(const catalog::VersionId& version,
                               const PreparedSources& from,
                               std::vector<std::string> held_shards,
                               base::Deadline deadline) {
  copy_.reset();
  PublisherOptions options;
  options.model = options_.model;
  options.run_id = version.run_id;
  options.epoch = version.epoch;
  options.placement = options_.placement;
  options.memory = options_.memory;
  options.catalog = options_.catalog;
  options.transports = options_.transports;
  options.kernels = options_.kernels;
  options.num_threads = options_.execute.num_threads;
  options.device = options_.execute.device;
  const auto check = [this](const catalog::VersionId& of,
                            absl::Span<const convert::DigestValue> table) {
    const std::string now = DigestOfTables(options_.placement, of, table);
    if (now == expected_digest_hex_) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(
        "the memory of this receiver has changed since ", catalog::ToString(of),
        " arrived: digest ", now, " instead of ", expected_digest_hex_,
        "; it is not served to others"));
  };
  // Who comes when the publishers are gone may need it.
  if (!from.model_card_digest_hex.empty()) {
    WEFT_ASSIGN_OR_RETURN(
        const std::string packed,
        options_.catalog->GetPlacement(from.model_card_digest_hex, deadline));
    WEFT_ASSIGN_OR_RETURN(options.model_card, manifest::UnpackBytes(packed));
  }
  WEFT_ASSIGN_OR_RETURN(
      copy_, PublishCopy(std::move(options), {check, held_shards}, deadline));
  held_shards_ = std::move(held_shards);
  return absl::OkStatus();
}

void Serving::Withdraw() {
  if (copy_ == nullptr) return;
  // The word is odd when this has returned, whatever the catalog answers.
  copy_->BeginUpdate(base::Deadline::After(std::chrono::seconds(2)))
      .IgnoreError();
}

}  // namespace weft::session
