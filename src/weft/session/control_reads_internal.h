// Reads of the sources' control memory, under way from all of them at the same
// time: they take one round trip, however many sources there are.
#ifndef WEFT_SESSION_CONTROL_READS_INTERNAL_H_
#define WEFT_SESSION_CONTROL_READS_INTERNAL_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/session/source_link_internal.h"

namespace weft::session {

struct LinkReads {
  SourceLink* link = nullptr;  // no two have the same
  std::vector<ControlRead> reads = {};
};

// By link: what its reads came to. When those of one have failed, the others
// have a second more: who lives answers at once.
std::vector<absl::Status> ReadFromAll(absl::Span<const LinkReads> wanted,
                                      base::Deadline deadline);

// By link.
std::vector<absl::StatusOr<uint64_t>> ReadEpochWords(
    absl::Span<SourceLink* const> links, base::Deadline deadline);

// OK, or all that failed, with the code of what failed first by itself: not of
// a deadline, if there is another.
absl::Status AllRead(absl::Span<const absl::Status> results);

}  // namespace weft::session

#endif  // WEFT_SESSION_CONTROL_READS_INTERNAL_H_
