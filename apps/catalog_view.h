// All that a catalog says of itself at one moment, for `weft status` and the
// catalog's HTTP port.
#ifndef WEFT_APPS_CATALOG_VIEW_H_
#define WEFT_APPS_CATALOG_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/event.h"
#include "weft/catalog/store.h"

namespace weft::apps {

struct CatalogView {
  std::vector<catalog::VersionRecord> versions;
  std::vector<catalog::WorkerRecord> workers;
  std::vector<catalog::LeaseRecord> leases;
  uint64_t log_id = 0;
  uint64_t events = 0;        // since the log began
  double answer_seconds = 0;  // of one listing
};

// The parts are asked for one after the other: what changes meanwhile may be
// in one and not in the next. Empty model = all.
absl::StatusOr<CatalogView> LookAtCatalog(catalog::CatalogStore& store,
                                          const std::string& model,
                                          base::Deadline deadline);

// The version that lies in a worker's memory, as far as that is known: what a
// receiver has committed, what a source holds. Empty: none.
std::string HeldBy(const catalog::WorkerRecord& worker);

nlohmann::ordered_json ToJson(const CatalogView& view);

// One screen. Of versions that are GONE and workers that are dead the newest
// `most_past` of each model.
std::string FormatView(const CatalogView& view, const std::string& address,
                       std::size_t most_past);

}  // namespace weft::apps

#endif  // WEFT_APPS_CATALOG_VIEW_H_
