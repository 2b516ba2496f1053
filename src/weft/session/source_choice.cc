#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/manifest/packed_bytes.h"
#include "weft/session/source_choice_internal.h"

namespace weft::session {
namespace {

std::string NameOf(const catalog::SourceRecord& source) {
  return source.role == catalog::Role::kCopy
             ? absl::StrCat("copy ", source.worker_id, " of receiver rank ",
                            source.rank)
             : absl::StrCat("publisher rank ", source.rank);
}

// As rank `rank` of the publishers' mesh and the copies together.
std::shared_ptr<const FetchedPlacement> Renumbered(
    const FetchedPlacement& source, const std::string& layout_spec,
    int64_t rank, int64_t num_ranks, int32_t distance) {
  auto renumbered = std::make_shared<FetchedPlacement>(source);
  renumbered->placement.layout_spec = layout_spec;
  renumbered->placement.rank = rank;
  renumbered->placement.num_ranks = num_ranks;
  // Not that of its bytes: plans are found again by it, and who is near is
  // part of a plan.
  renumbered->digest = manifest::CombineDigests(
      {source.digest, manifest::DigestOf(absl::StrCat(
                          "source ", rank, " of ", num_ranks, " at distance ",
                          distance, " as ", layout_spec))});
  return renumbered;
}

}  // namespace

bool FitsPublisher(const manifest::Placement& copy,
                   const manifest::Placement& publisher) {
  absl::flat_hash_map<std::string_view, int32_t> of_publisher;
  for (size_t i = 0; i < publisher.tensors.size(); ++i) {
    of_publisher[publisher.tensors[i].name] = static_cast<int32_t>(i);
  }
  absl::flat_hash_map<int32_t, const tensor::ScaleScheme*> schemes;
  for (const layout::ScaledTensor& scaled : publisher.scaled) {
    schemes[scaled.tensor] = &scaled.scheme;
  }
  const auto counterpart = [&](int32_t tensor) {
    const auto found = of_publisher.find(copy.tensors[tensor].name);
    return found == of_publisher.end() ? -1 : found->second;
  };
  for (size_t i = 0; i < copy.tensors.size(); ++i) {
    const int32_t other = counterpart(static_cast<int32_t>(i));
    if (other >= 0 &&
        (copy.tensors[i].shape != publisher.tensors[other].shape ||
         copy.tensors[i].dtype != publisher.tensors[other].dtype)) {
      return false;
    }
  }
  return std::all_of(
      copy.scaled.begin(), copy.scaled.end(),
      [&](const layout::ScaledTensor& scaled) {
        const auto theirs = schemes.find(counterpart(scaled.tensor));
        return theirs == schemes.end() || *theirs->second == scaled.scheme;
      });
}

absl::StatusOr<SourceChoice> SourceChooser::Choose(
    const catalog::SourceSet& set, const Request& request,
    base::Deadline deadline) {
  SourceChoice choice;
  choice.model_card_digest_hex = set.model_card_digest_hex;
  std::vector<ChosenSource> copies;
  for (const catalog::SourceRecord& source : set.sources) {
    const bool is_copy = source.role == catalog::Role::kCopy;
    if (request.version == nullptr ? is_copy
                                   : source.holds != *request.version) {
      continue;
    }
    choice.source_set += catalog::SourceSetTerm(source.generation);
    if (request.excluded.contains(source.generation) ||
        (is_copy && !request.copies)) {
      continue;
    }
    ChosenSource chosen{.record = source,
                        .name = NameOf(source),
                        .placement = nullptr,
                        .distance = source.host_id == host_id_ ? 0 : 1};
    (is_copy ? copies : choice.sources).push_back(std::move(chosen));
  }
  if (choice.sources.empty() && copies.empty()) {
    return absl::AbortedError(
        request.version == nullptr
            ? std::string("no publisher is left to read from")
            : absl::StrCat("nobody is left to read ",
                           catalog::ToString(*request.version), " from"));
  }
  const uint64_t spread = catalog::SourceSetTerm(request.spread);
  const auto order = [&](const ChosenSource& copy) {
    // First those without whom something is missing: who holds what died with
    // its publishers.
    return std::tuple(copy.record.shard_keys.empty(), copy.distance,
                      catalog::SourceSetTerm(spread ^ copy.record.generation));
  };
  std::sort(copies.begin(), copies.end(),
            [&](const ChosenSource& a, const ChosenSource& b) {
              return order(a) < order(b);
            });
  if (copies.size() > kCopiesReadAtOnce) copies.resize(kCopiesReadAtOnce);
  for (std::vector<ChosenSource>* list : {&choice.sources, &copies}) {
    for (ChosenSource& source : *list) {
      WEFT_ASSIGN_OR_RETURN(source.placement,
                            Fetch(source.record, source.name, deadline));
    }
  }
  // Whoever stands in has fitted the publishers that are gone.
  std::vector<std::shared_ptr<const FetchedPlacement>> agreed;
  for (const std::vector<ChosenSource>* list : {&choice.sources, &copies}) {
    for (const ChosenSource& source : *list) {
      if (!source.is_copy() || !source.record.shard_keys.empty()) {
        agreed.push_back(source.placement);
      }
    }
  }
  std::erase_if(copies, [&](const ChosenSource& copy) {
    return !std::all_of(agreed.begin(), agreed.end(), [&](const auto& other) {
      return FitsPublisher(copy.placement->placement, other->placement);
    });
  });
  if (!copies.empty()) AddCopies(std::move(copies), set.num_ranks, choice);
  return choice;
}

void SourceChooser::AddCopies(std::vector<ChosenSource> copies,
                              int64_t mesh_ranks, SourceChoice& choice) const {
  // Equal choices are equal plans.
  std::sort(copies.begin(), copies.end(),
            [](const ChosenSource& a, const ChosenSource& b) {
              return a.record.generation < b.record.generation;
            });
  for (size_t i = 0; i < copies.size(); ++i) {
    copies[i].record.rank = mesh_ranks + static_cast<int64_t>(i);
  }
  const std::string layout_spec =
      choice.sources.empty()
          ? "copies"
          : choice.sources[0].placement->placement.layout_spec;
  choice.sources.insert(choice.sources.end(),
                        std::make_move_iterator(copies.begin()),
                        std::make_move_iterator(copies.end()));
  const int64_t num_ranks = mesh_ranks + static_cast<int64_t>(copies.size());
  for (ChosenSource& source : choice.sources) {
    // As near as a publisher a copy comes first: the trainer has other work.
    source.distance = 2 * source.distance + (source.is_copy() ? 0 : 1);
    source.placement =
        Renumbered(*source.placement, layout_spec, source.record.rank,
                   num_ranks, source.distance);
  }
}

absl::StatusOr<std::shared_ptr<const FetchedPlacement>> SourceChooser::Fetch(
    const catalog::SourceRecord& source, const std::string& name,
    base::Deadline deadline) {
  const std::string& digest = source.placement_digest_hex;
  const auto cached = cache_.find(digest);
  if (cached != cache_.end()) return cached->second;
  WEFT_ASSIGN_OR_RETURN(const std::string packed,
                        catalog_.GetPlacement(digest, deadline));
  if (manifest::DigestOf(packed).ToHex() != digest) {
    return absl::DataLossError(
        absl::StrCat("the catalog returned other bytes for placement ", digest,
                     " of ", name));
  }
  const absl::StatusOr<std::string> bytes = manifest::UnpackBytes(packed);
  WEFT_RETURN_IF_ERROR(base::Annotate(bytes.status(), name));
  absl::StatusOr<manifest::Placement> placement =
      manifest::DecodePlacement(*bytes);
  WEFT_RETURN_IF_ERROR(base::Annotate(placement.status(), name));
  WEFT_RETURN_IF_ERROR(base::Annotate(
      manifest::CheckPlacement(*placement, /*is_target=*/false), name));
  auto fetched = std::make_shared<const FetchedPlacement>(
      FetchedPlacement{manifest::DigestOf(*bytes), *std::move(placement)});
  ++manifests_fetched_;
  cache_.emplace(digest, fetched);
  return std::shared_ptr<const FetchedPlacement>(std::move(fetched));
}

absl::StatusOr<std::vector<std::unique_ptr<SourceLink>>> OpenLinks(
    const plan::Plan& plan, absl::Span<const ChosenSource> sources,
    const ReceiverOptions& options, std::optional<int64_t>& unreachable,
    base::Deadline deadline) {
  std::vector<std::unique_ptr<SourceLink>> links;
  for (const plan::PeerPlan& peer : plan.peers) {
    const auto source = std::find_if(
        sources.begin(), sources.end(),
        [&](const auto& each) { return each.record.rank == peer.src_rank; });
    absl::StatusOr<std::unique_ptr<SourceLink>> link =
        SourceLink::Open(source->record, source->name, options, deadline);
    if (!link.ok()) {
      unreachable = peer.src_rank;
      return link.status();
    }
    const size_t bound = (*link)->binding().stored.size();
    const size_t placed = source->placement->placement.stored.size();
    if (bound != placed) {
      return absl::DataLossError(absl::StrCat(source->name, " binds ", bound,
                                              " stored tensors, its placement "
                                              "has ",
                                              placed));
    }
    links.push_back(*std::move(link));
  }
  return links;
}

}  // namespace weft::session
