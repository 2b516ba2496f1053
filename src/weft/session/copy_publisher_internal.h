// A publisher of what a receiver has committed, as a copy (fan-out).
#ifndef WEFT_SESSION_COPY_PUBLISHER_INTERNAL_H_
#define WEFT_SESSION_COPY_PUBLISHER_INTERNAL_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/convert/digest.h"
#include "weft/session/publisher.h"

namespace weft::session {

// Whether the tables that were taken of the memory just now are those of the
// bytes that arrived; an error keeps the copy from being served.
using CheckTables =
    std::function<absl::Status(const catalog::VersionId& version,
                               absl::Span<const convert::DigestValue> table)>;

struct CopyTerms {
  CheckTables check;
  std::vector<std::string> held_shards;  // catalog::WorkerInfo
};

// As Publisher::Create, as catalog::Role::kCopy: rank, mesh and layout of
// `options.placement` are the receiver's, it quantises nothing, and BeginUpdate
// waits for nobody. `terms.check` must be set.
absl::StatusOr<std::unique_ptr<Publisher>> PublishCopy(PublisherOptions options,
                                                       CopyTerms terms,
                                                       base::Deadline deadline);

}  // namespace weft::session

#endif  // WEFT_SESSION_COPY_PUBLISHER_INTERNAL_H_
