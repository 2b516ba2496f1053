// What a receiver does under a lease with a plan, links and memory: moves,
// compares digests, quantises. Part by part: first what needs no stage, then
// each round of stages (plan/stages.h). With threads to spare rounds are half
// as large and take turns in two areas of staging: one is quantised while the
// next comes in.
#ifndef WEFT_SESSION_TRANSFER_INTERNAL_H_
#define WEFT_SESSION_TRANSFER_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/execute/executor.h"
#include "weft/memory/buffer.h"
#include "weft/plan/plan.h"
#include "weft/plan/stages.h"
#include "weft/session/arrival_check_internal.h"
#include "weft/session/device_memory_internal.h"
#include "weft/session/end_in_sight_internal.h"
#include "weft/session/receiver.h"
#include "weft/session/source_link_internal.h"

namespace weft::session {

// plan::StageTarget for a receiver, so that two rounds fit into the staging
// that stages may have where they are to take turns. A block that is too large
// for that has it alone.
absl::StatusOr<plan::StagedTarget> StageForTransfer(
    const plan::SourceIndex& sources, const ReceiverOptions& options);

class Transfer {
 public:
  struct Inputs {
    const ReceiverOptions& options;
    const RankMemory& memory;  // that is written
    const plan::SourceIndex& index;
    const plan::Plan& plan;  // for staged.placement
    const plan::StagedTarget& staged;
    // One a peer of the plan, in its order.
    absl::Span<const std::unique_ptr<SourceLink>> links;
  };
  // Registers the receiver's memory where it is posted to, allocates staging
  // and binds the first part. Everything in `inputs` must outlive it.
  static absl::StatusOr<std::unique_ptr<Transfer>> Make(const Inputs& inputs);

  // All parts. Fills in the report's bytes, times, digest and peers. `resume`:
  // moves of the direct part whose bytes lie in place already are left out.
  // Codes as Receiver::Refit.
  absl::Status Run(const catalog::VersionId& version, bool resume,
                   base::Deadline deadline, RefitReport& report);
  // `near_end`: called in a run, from any thread, a moment before its last byte
  // is there (EndInSight); only where a GPU brings the bytes.
  void SetNearEnd(std::function<void()> near_end) {
    near_end_ = std::move(near_end);
  }
  // Whose bytes did not have the digests that they say, in a run that failed.
  const std::set<int64_t>& failed_ranks() const { return failed_ranks_; }

 private:
  // A plan bound to memory; the arrival check is told what has landed.
  struct Part {
    const plan::Plan* plan = nullptr;
    std::vector<SourceLink*> links;  // one a peer of `plan`
    std::unique_ptr<ArrivalCheck> arrival;
    // What the sources say of the version, by link; memory that is kept from
    // version to version.
    std::vector<std::vector<convert::DigestValue>> tables;
    bool tables_read = false;
    EndInSight end;
    std::unique_ptr<execute::Program> program;
  };

  explicit Transfer(const Inputs& inputs) : in_(inputs) {}
  absl::Status Prepare();
  absl::Status AllocateStaging();
  absl::StatusOr<std::unique_ptr<Part>> Bind(const plan::Plan& plan);
  SourceLink& LinkOf(const plan::PeerPlan& peer) const;
  // `options`: the receiver's, with hooks of the part.
  absl::StatusOr<std::unique_ptr<execute::Program>> BindProgram(
      const plan::Plan& plan, execute::ExecuteOptions options);
  absl::Status RunParts(const catalog::VersionId& version, bool resume,
                        base::Deadline deadline, RefitReport& report);
  absl::Status RunRounds(const catalog::VersionId& version,
                         base::Deadline deadline, RefitReport& report);
  absl::Status Quantise(size_t round, int num_threads, base::Deadline deadline);
  // Where the stages of `round` lie.
  int64_t StagingOffset(size_t round) const {
    return static_cast<int64_t>(round % num_areas_) * area_bytes_;
  }
  // The direct part without what lies in place: finds that by the publishers'
  // tables, reading only what completes tiles that moves cut through.
  absl::Status ResumeDirect(const catalog::VersionId& version,
                            base::Deadline deadline, RefitReport& report);
  absl::StatusOr<execute::ExecuteReport> Move(Part& part,
                                              base::Deadline deadline);
  absl::Status RunPart(Part& part, const catalog::VersionId& version,
                       base::Deadline deadline, RefitReport& report);
  // Fills part.tables.
  absl::Status ReadTables(Part& part, base::Deadline deadline);
  absl::Status CheckEpochWords(absl::Span<SourceLink* const> links,
                               const catalog::VersionId& version,
                               std::string_view when, base::Deadline deadline);

  const Inputs in_;
  std::function<void()> near_end_ = [] {};
  int device_ =
      memory::kHostMemory;  // the GPU that holds the receiver's memory
  DeviceAreas device_areas_;
  // Of stages, on the GPU or on the host; null without them.
  std::unique_ptr<memory::DeviceBuffer> device_staging_;
  std::unique_ptr<memory::Buffer> staging_;
  size_t num_areas_ = 1;  // of staging, for rounds in turn
  int64_t area_bytes_ = 0;
  RankMemory memory_;  // the receiver's, and the stages
  std::vector<std::unique_ptr<transport::Region>> regions_;
  std::vector<execute::LocalStored> local_;
  int64_t quantised_bytes_ = 0;  // that the steps write
  // The direct part and the rounds; empty if there are none, and the plan is
  // its own direct part.
  std::vector<plan::Plan> part_plans_;
  std::vector<SourceLink*> all_links_;
  std::unique_ptr<Part> direct_;
  std::set<int64_t> failed_ranks_;
  // Of the run that goes on.
  convert::DigestValue digest_;
  base::Deadline deadline_ = base::Deadline::Infinite();
};

}  // namespace weft::session

#endif  // WEFT_SESSION_TRANSFER_INTERNAL_H_
