// What a receiver does to serve what it has committed (docs/fan_out.md).
#ifndef WEFT_SESSION_SERVING_INTERNAL_H_
#define WEFT_SESSION_SERVING_INTERNAL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/session/prepared_sources_internal.h"
#include "weft/session/publisher.h"
#include "weft/session/receiver.h"

namespace weft::session {

class Serving {
 public:
  // Whether a receiver with `options` can do what they say of serving.
  static absl::Status CheckOptions(const ReceiverOptions& options);

  // `options` outlive it.
  explicit Serving(const ReceiverOptions& options) : options_(options) {}

  // The memory holds `version`, whose digest over all that arrived was
  // `digest_hex`, by the plan and from the sources of `from`. Takes digests
  // anew and serves if they add up to that one. kFailedPrecondition if not all
  // of it is what the publishers hold, bit for bit, or the version is no longer
  // READY; kDataLoss if the memory has changed since it arrived.
  absl::Status Serve(const catalog::VersionId& version,
                     const std::string& digest_hex, const PreparedSources& from,
                     base::Deadline deadline);
  // Before the memory changes. Who still reads it sees the epoch word, also if
  // the catalog cannot be told.
  void Withdraw();

  // Of its registration; 0 if there is none.
  uint64_t generation() const {
    return copy_ == nullptr ? 0 : copy_->generation();
  }

 private:
  // The shards of which it holds all.
  std::vector<std::string> HeldShards(const PreparedSources& from);
  absl::Status Register(const catalog::VersionId& version,
                        const PreparedSources& from,
                        std::vector<std::string> held_shards,
                        base::Deadline deadline);

  const ReceiverOptions& options_;
  std::string expected_digest_hex_;
  std::vector<std::string> held_shards_;  // that copy_ was registered with
  // By the digest of a source's placement: whether it is held whole.
  std::map<std::string, bool> is_held_;
  std::unique_ptr<Publisher> copy_;
  catalog::VersionId newest_;  // that copy_ was to serve
};

}  // namespace weft::session

#endif  // WEFT_SESSION_SERVING_INTERNAL_H_
