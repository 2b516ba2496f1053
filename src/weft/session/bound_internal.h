// The physical bound that is printed beside a refit.
#ifndef WEFT_SESSION_BOUND_INTERNAL_H_
#define WEFT_SESSION_BOUND_INTERNAL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "weft/base/deadline.h"
#include "weft/session/source_link_internal.h"

namespace weft::session {

struct Bound {
  double bytes_per_second = 0;  // 0 = not known
  std::string name;
};

// What each thread of a measurement by memcpy reads and writes: together half
// a GiB each way at most, however many there are.
int64_t CopyBytesOfAThread(int num_threads);

// `device`: the GPU of this rank's memory, or memory::kHostMemory. Mapped
// links: memcpy between two buffers larger than the caches, with as many
// threads as the refit uses, best of three. Posted links: 1 MiB reads of the
// peer, summed over peers only if they are different links, which on one host
// they are not: the best single link. Both kinds present: the slower one.
//
// `best` becomes what was measured if that is more: noise only ever makes a
// link look slower. After an error reads may be in flight, and the links are of
// no use any more.
absl::Status RaiseBound(absl::Span<const std::unique_ptr<SourceLink>> links,
                        const execute::ExecuteOptions& options, int device,
                        base::Deadline deadline, Bound& best);

}  // namespace weft::session

#endif  // WEFT_SESSION_BOUND_INTERNAL_H_
