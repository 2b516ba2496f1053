// Publisher: what a trainer rank's process holds. It registers its memory
// once; each step it fences readers out, lets the optimiser change the memory,
// and publishes the new version with its digests. It moves nothing by itself
// and knows nothing of its readers.
#ifndef WEFT_SESSION_PUBLISHER_H_
#define WEFT_SESSION_PUBLISHER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/convert/kernel.h"
#include "weft/execute/device_options.h"
#include "weft/manifest/placement.h"
#include "weft/session/memory_area.h"
#include "weft/transport/transport.h"

namespace weft::session {

struct PublisherOptions {
  std::string model;
  // A restart of the same run uses a larger epoch; it then takes over.
  std::string run_id = "run";
  uint64_t epoch = 0;
  // Equal for all ranks; receivers may ask for versions by them.
  catalog::Labels labels;
  // Matrices that `placement.scaled` names are offered in FP8 as well, block
  // by block where this rank holds blocks whole: Publish quantises them into
  // memory of the publisher's own.
  manifest::Placement placement;
  // Outlives the publisher; must not move. Written only between BeginUpdate
  // and Publish.
  RankMemory memory;
  // Opaque bytes that describe the model to receivers that know nothing of it
  // (`weft pull`); may be empty.
  std::string model_card;
  std::shared_ptr<catalog::CatalogStore> catalog;
  // Every transport that may serve; the receiver chooses.
  std::vector<std::shared_ptr<transport::Transport>> transports;
  const convert::Kernels* kernels = nullptr;  // default: convert::CpuKernels()
  int num_threads = 1;                        // for digests and quantising
  // Needed when memory lies on a GPU, which then quantises and digests it.
  execute::DeviceOptions device;
};

struct PublishReport {
  catalog::VersionRecord version;
  double quantise_seconds = 0;
  double digest_seconds = 0;
  double control_seconds = 0;  // everything else
  int64_t digest_bytes = 0;    // weights digested
};

// Threads: one caller at a time. The catalog connection and the transports
// have threads of their own.
class Publisher {
 public:
  // Checks the placement and the memory, registers the memory with every
  // transport, puts the manifest into the catalog and attaches.
  // kInvalidArgument (all faults), kAlreadyExists (this rank is published
  // already), kFailedPrecondition (a newer epoch runs), kUnavailable.
  static absl::StatusOr<std::unique_ptr<Publisher>> Create(
      PublisherOptions options, base::Deadline deadline);
  virtual ~Publisher() = default;

  // Call before the memory changes. Makes the epoch word odd after readers
  // have left, at the latest at `revoke_after`; a reader that still reads then
  // fails its refit. Returns how many leases were revoked.
  virtual absl::StatusOr<int64_t> BeginUpdate(base::Deadline revoke_after) = 0;

  // The memory now holds `step`: takes the digests, sets the epoch word, and
  // tells the catalog. Calls BeginUpdate(deadline) itself if that was not
  // done. kFailedPrecondition if steps do not grow or the epoch was taken over.
  virtual absl::StatusOr<PublishReport> Publish(uint64_t step,
                                                base::Deadline deadline) = 0;

  // OK while the catalog holds this rank as alive.
  virtual absl::Status Health() = 0;
  virtual const manifest::LayoutDigest& layout_digest() const = 0;
  // Of its registration with the catalog.
  virtual uint64_t generation() const = 0;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_PUBLISHER_H_
