// Receiver: what an engine rank's process holds. Plans once, then brings its
// memory to a version as one verified transaction:
//
//   lease -> dirty latch -> epoch words -> move -> epoch words -> digests
//         -> hooks -> commit -> release
//
// From the latch on until a commit the receiver is *fenced*: its memory may
// hold torn weights and must not serve. Any failure leaves it fenced; the next
// refit that commits heals it. A receiver with a second set of buffers moves
// and verifies beside the set that serves, and sets the latch only while it
// switches (docs/receiver.md).
#ifndef WEFT_SESSION_RECEIVER_H_
#define WEFT_SESSION_RECEIVER_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"
#include "weft/convert/kernel.h"
#include "weft/execute/executor.h"
#include "weft/manifest/placement.h"
#include "weft/plan/explain.h"
#include "weft/plan/plan.h"
#include "weft/session/memory_area.h"
#include "weft/session/refit_phase.h"
#include "weft/transport/transport.h"

namespace weft::session {

enum class ReceiveMode {
  kInPlace,  // into the memory that the engine reads; fenced meanwhile
  kShadow,   // into a second set of buffers, then a local switch
};

// For ReceiveMode::kShadow; without meaning else.
struct ShadowOptions {
  // What the second set may take, on the host and on the GPU together.
  int64_t budget_bytes = std::numeric_limits<int64_t>::max();
  // Contents change places, so that Rollback has the previous version, instead
  // of being copied: twice the memory traffic while the engine stands still.
  bool keep_previous = true;
  // Called before and after the switch: the engine reads no weights between
  // them. An error of `pause` ends the refit and changes nothing. After a
  // switch that failed `resume` is not called: the receiver is fenced.
  std::function<absl::Status()> pause;
  std::function<absl::Status()> resume;
  // If given, nothing is copied: the engine reads the stored tensors where
  // `now_live` has them from then on, and the memory that it read before
  // receives the next version. An error fences.
  std::function<absl::Status(const RankMemory& now_live)> swap;
};

struct ReceiverOptions {
  std::string model;
  manifest::Placement placement;
  // Outlives the receiver; must not move. Written by Refit.
  RankMemory memory;
  std::shared_ptr<catalog::CatalogStore> catalog;
  // In order of preference; per peer the first that reaches all its memory is
  // taken, mapped access before posted.
  std::vector<std::shared_ptr<transport::Transport>> transports;
  const convert::Kernels* kernels = nullptr;  // default: convert::CpuKernels()
  // Names of all logical tensors of the receiver's model, of this rank and of
  // others. A source that has more tensors in a module of this model (a norm of
  // queries, a bias) is refused: the model would be served without a part of
  // itself. What lies in modules of its own is not taken, and said
  // (RefitReport::not_taken): a value head, layers for speculation, or the
  // layers of a deeper model. Empty = no check: what this rank holds does not
  // tell what the others do.
  std::vector<std::string> known_tensors;
  // Refuse such a trainer, too.
  bool refuse_unknown_tensors = false;
  plan::PlanLimits limits;
  execute::ExecuteOptions execute;
  // Compare digests of all that arrived. Off only for measurements.
  bool verify = true;
  // After each commit serve what was committed to receivers that come later, if
  // all of it is what the publishers hold, bit for bit (docs/fan_out.md). Needs
  // `verify`, memory that the transports can register, and no `swap`.
  bool serve = false;
  // Read from receivers that serve, too; they come before publishers that are
  // as near.
  bool read_copies = true;
  // After each commit measure the link that was used, for the bound (some
  // 100 ms, not counted in the report's seconds).
  bool measure_bound = true;
  // Refuse a version whose step is lower than that of what this receiver has
  // committed last, within its run: a trainer that was started again from an
  // older checkpoint, or from initial weights. Off: a trainer may go back on
  // purpose. Rollback goes back all the same.
  bool refuse_lower_step = false;
  // Called some times a second while Refit waits for a version to be READY; an
  // error ends the wait and is Refit's.
  std::function<absl::Status()> while_waiting;
  // Run after the digests agreed and before the commit, when the live memory
  // holds the version: refresh what the engine derives from weights. An error
  // fences.
  std::function<absl::Status(const catalog::VersionId&)> derive_hook;
  ReceiveMode mode = ReceiveMode::kInPlace;
  ShadowOptions shadow;
  // File that holds the dirty latch beyond this process, written to disk before
  // live memory changes and after each commit; one a rank. Empty: none. A
  // receiver that finds it dirty says so in fenced_reason().
  std::string state_file;
  // A refit to the version that the last one was about first digests what lies
  // in the receiving memory, and moves only what differs. With a state file
  // that holds over a restart too, in place, when the engine's memory has
  // survived. Host memory; on a GPU all is moved again.
  bool resume = false;
  // Told of each phase of a refit as it ends, of refits that fail too, from the
  // thread that ran it.
  PhaseObserver on_phase;
};

// Statuses of Prepare and Refit that say why no plan can be made (holes, double
// writes) carry this payload: their code, kFailedPrecondition, has other
// meanings too.
inline constexpr char kPlanRefusedPayload[] = "weft.session.plan_refused";

struct PeerReport {
  int64_t rank = 0;  // in the plan: copies follow the publishers' ranks
  std::string name;
  std::string transport;
  bool mapped = false;
  int64_t bytes = 0;
  // Empty, or why the bytes did not take a faster way: transports that were
  // refused before this one, and a way through memory of the host.
  std::string detour = "";
};

// A source that was lost in mid-refit.
struct ReplacedSource {
  std::string source;  // "publisher rank 2"
  std::string why;
  std::vector<std::string> by;  // who served its part
};

struct RefitReport {
  catalog::VersionId version;
  int64_t bytes = 0;  // written into the receiver's memory
  // Not written: digests proved that they lay there already.
  int64_t bytes_resumed = 0;
  int64_t wire_bytes = 0;  // read from peers, witnesses included
  double seconds = 0;      // whole call
  double transfer_seconds = 0;
  double verify_seconds = 0;
  // Of matrices that came over in another form, as far as it was not done
  // beside the transfer.
  double quantise_seconds = 0;
  double control_seconds = 0;  // everything else: catalog, epoch words, tables
  double bound_bytes_per_second = 0;  // 0 = not measured
  std::string bound_name;             // "memcpy, 2 threads" or "ucx get, 1 MiB"
  int64_t tiles_checked = 0;
  // Sum over tiles of weight * digest of everything received, hex: equal for
  // equal bytes, whatever the layouts of the sources.
  std::string digest;
  bool planned = false;           // this call built a plan
  int64_t manifests_fetched = 0;  // placements read from the catalog by it
  execute::ExecuteReport execute;
  std::vector<PeerReport> peers;
  std::vector<ReplacedSource> replaced;
  // Empty, or how many tensors are published of which this receiver's model
  // knows nothing (ReceiverOptions::known_tensors). Logged once, too.
  std::string not_taken;
  // With ReceiverOptions::serve: whether it is served now, or why not.
  bool serving = false;
  std::string not_served;
  double serve_seconds = 0;  // after the commit, not in `seconds`
  // Of a receiver with a second set of buffers: how long the engine stood
  // still, from the end of `pause` to the call of `resume`, and the bytes that
  // the live set was given from the other one meanwhile.
  double pause_seconds = 0;
  int64_t bytes_copied = 0;
  // The version is live, but this could not be recorded where others look: the
  // catalog's or the state file's error. Empty as a rule; the next commit
  // records anew.
  std::string unrecorded;
};

struct RollbackReport {
  catalog::VersionId version;  // that is live now
  double seconds = 0;
  double pause_seconds = 0;  // as in RefitReport
  int64_t bytes_copied = 0;
  std::string unrecorded;
};

struct ReceiverCounters {
  int64_t plans_built = 0;
  int64_t manifests_fetched = 0;
  int64_t connections_opened = 0;
  int64_t refits_committed = 0;
  int64_t refits_failed = 0;
};

// A receiver whose place in the catalog is lost takes it again by itself. What
// was under way then fails at its commit; the next refit works. Its lease is
// renewed while it transfers.
//
// Threads: one caller at a time, except fenced().
class Receiver {
 public:
  // Registers with the catalog as a receiver and attaches.
  static absl::StatusOr<std::unique_ptr<Receiver>> Create(
      ReceiverOptions options, base::Deadline deadline);
  virtual ~Receiver() = default;

  // Fetches manifests, plans, connects and imports keys, if the set of sources
  // is not the one that is planned already. Refit does it by itself.
  virtual absl::Status Prepare(base::Deadline deadline) = 0;

  // Brings the memory to `version`, or to the newest READY version if nullptr
  // (waiting for one newer than what is committed when `newer`). On an error
  // after the latch the receiver is fenced. Codes: kDeadlineExceeded,
  // kUnavailable (a peer or the catalog died), kDataLoss (digests differ; the
  // message names tensors), kAborted (the version changed while it was read),
  // kFailedPrecondition (coverage; version GONE; a lower step that is refused),
  // kResourceExhausted.
  virtual absl::StatusOr<RefitReport> Refit(const catalog::VersionId* version,
                                            bool newer,
                                            base::Deadline deadline) = 0;

  // Back to the version that was live before the last switch, from the second
  // set of buffers: pause, switch, hook, commit, resume. Needs no source and no
  // lease; that version may be GONE. Called again it goes forward again.
  // kFailedPrecondition when no such version is held: in place, without
  // keep_previous, before the second commit, and after a transfer that failed.
  virtual absl::StatusOr<RollbackReport> Rollback(base::Deadline deadline) = 0;

  // True before the first commit and from the dirty latch until a commit.
  virtual bool fenced() const = 0;
  virtual std::string fenced_reason() const = 0;
  virtual const std::optional<catalog::VersionId>& committed() const = 0;
  virtual ReceiverCounters counters() const = 0;

  // The current plan, or nullptr before Prepare.
  virtual const plan::Plan* plan() const = 0;
  // Its explanation; empty before Prepare.
  virtual std::string Explain(const plan::ExplainOptions& options,
                              bool json) const = 0;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_RECEIVER_H_
