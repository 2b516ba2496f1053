// Whom a receiver may read a version from: publishers and copies of what it
// asks for, numbered so that a plan can tell them apart.
#ifndef WEFT_SESSION_SOURCE_CHOICE_INTERNAL_H_
#define WEFT_SESSION_SOURCE_CHOICE_INTERNAL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/manifest/placement.h"
#include "weft/plan/plan.h"
#include "weft/session/source_link_internal.h"
#include "weft/transport/transport.h"

namespace weft::session {

// As the catalog gave it, checked.
struct FetchedPlacement {
  manifest::LayoutDigest digest;
  manifest::Placement placement;
};

struct ChosenSource {
  // `rank` is the plan's: copies follow the ranks of the publishers' mesh.
  catalog::SourceRecord record;
  std::string name;  // "publisher rank 2", "copy w17"
  std::shared_ptr<const FetchedPlacement> placement;
  int32_t distance = 0;  // plan::SourceInfo

  bool is_copy() const { return record.role == catalog::Role::kCopy; }
};

struct SourceChoice {
  // catalog::SourceSetOf all that hold the version, chosen or not.
  uint64_t source_set = 0;
  std::string model_card_digest_hex;
  std::vector<ChosenSource> sources;  // by ascending rank
};

// Of as many copies a receiver reads at most: the nearest, and of those the
// ones that its own number picks, so that many receivers spread over many.
inline constexpr size_t kCopiesReadAtOnce = 8;

class SourceChooser {
 public:
  // `catalog` outlives it.
  SourceChooser(catalog::CatalogStore& catalog, std::string host_id)
      : catalog_(catalog), host_id_(std::move(host_id)) {}

  struct Request {
    // The version that is read; null: none yet, then publishers alone.
    const catalog::VersionId* version = nullptr;
    // Generations that are not read: dead ones, and the receiver's own copy.
    std::set<uint64_t> excluded = {};
    bool copies = true;
    uint64_t spread = 0;  // the receiver's own number
  };
  // Placements that are not known yet are fetched. A copy that does not fit the
  // publishers, or the copies that stand in for them, is left out.
  absl::StatusOr<SourceChoice> Choose(const catalog::SourceSet& set,
                                      const Request& request,
                                      base::Deadline deadline);

  int64_t manifests_fetched() const { return manifests_fetched_; }

 private:
  absl::StatusOr<std::shared_ptr<const FetchedPlacement>> Fetch(
      const catalog::SourceRecord& source, const std::string& name,
      base::Deadline deadline);
  void AddCopies(std::vector<ChosenSource> copies, int64_t mesh_ranks,
                 SourceChoice& choice) const;

  catalog::CatalogStore& catalog_;
  const std::string host_id_;
  // By digest, kept over restarts of publishers: a restarted trainer of the
  // same layout sends no manifest again.
  std::map<std::string, std::shared_ptr<const FetchedPlacement>> cache_;
  int64_t manifests_fetched_ = 0;
};

// Whether a plan may take from `copy` what it may take from `publisher`: they
// agree on the shape and dtype of each tensor that both name, and on how it is
// quantised.
bool FitsPublisher(const manifest::Placement& copy,
                   const manifest::Placement& publisher);

// One a peer of the plan, in its order. `unreachable`: the rank in the plan of
// a source that is not there.
absl::StatusOr<std::vector<std::unique_ptr<SourceLink>>> OpenLinks(
    const plan::Plan& plan, absl::Span<const ChosenSource> sources,
    const ReceiverOptions& options, std::optional<int64_t>& unreachable,
    base::Deadline deadline);

}  // namespace weft::session

#endif  // WEFT_SESSION_SOURCE_CHOICE_INTERNAL_H_
