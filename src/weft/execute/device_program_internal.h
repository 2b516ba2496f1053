// A plan with an end in the memory of a GPU: the GPU of the near side carries
// all of it, by copy engines and kernels that follow the addresses of both
// ends. Host memory at an end is pinned for it. What has no address here is
// brought by the transport (device_posted_internal.h).
//
// The moves go in batches, the largest first. What arrived is digested where it
// lies, a batch behind the copies and beside them, so that the link never waits
// for it; what the host makes of the digests it does meanwhile. Batches become
// small at the end, since the last one is waited for.
#ifndef WEFT_EXECUTE_DEVICE_PROGRAM_INTERNAL_H_
#define WEFT_EXECUTE_DEVICE_PROGRAM_INTERNAL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "weft/execute/binding_internal.h"
#include "weft/execute/device_posted_internal.h"
#include "weft/execute/executor.h"
#include "weft/execute/helpers_internal.h"

namespace weft::execute {

// The GPU that carries out what `inputs` binds: where the near memory lies,
// else where the far memory is mapped; kHostMemory when no end is on a GPU.
// kInvalidArgument when the near memory lies on several.
absl::StatusOr<int> DeviceOf(const BindInputs& inputs);

class DeviceProgram : public Program {
 public:
  // inputs.device: what DeviceOf said.
  static absl::StatusOr<std::unique_ptr<Program>> Make(
      const BindInputs& inputs);
  ~DeviceProgram() override;

  absl::StatusOr<ExecuteReport> Run(base::Deadline deadline) override;
  absl::Span<const std::byte> scratch() const override;
  absl::Span<const convert::DigestValue> ConvertedDigests(
      size_t peer_index, size_t move_index) const override {
    return ValuesOf({peer_index, move_index, false});
  }
  absl::Span<const convert::DigestValue> LandedDigests(
      size_t peer_index, size_t move_index) const override {
    return ValuesOf({peer_index, move_index, false});
  }
  absl::Span<const convert::DigestValue> WitnessDigests(
      size_t peer_index, size_t witness_index) const override {
    return ValuesOf({peer_index, witness_index, true});
  }
  void SetDigestConstants(const convert::DigestConstants* constants) override {
    constants_ = constants;
  }

 private:
  // Of the plan.
  struct MoveName {
    size_t peer = 0;
    size_t move = 0;
  };
  struct Batch {
    // Null when there is nothing of the kind.
    std::unique_ptr<convert::cuda::Program> lines;   // contiguous copies
    std::unique_ptr<convert::cuda::Program> copies;  // digests what it converts
    std::unique_ptr<convert::cuda::Program> digests;
    std::vector<MoveName> moves;  // whose digests they bring
    bool posted = false;          // of what operations bring; the last one
  };
  // Of one move or witness of the plan.
  struct DigestName {
    size_t peer = 0;
    size_t index = 0;
    bool witness = false;
    auto operator<=>(const DigestName&) const = default;
  };
  struct DigestSlice {
    const convert::cuda::Program* program = nullptr;
    int32_t posted_table = -1;  // instead: a table of posted_
    int64_t first_value = 0;
    int64_t num_values = 0;
  };
  class Compiler;

  explicit DeviceProgram(const BindInputs& inputs);
  absl::Status Compile(const BindInputs& inputs);
  absl::Status CompileBatches(const BindInputs& inputs);
  absl::Status PinHostEnds(const BindInputs& inputs);
  void MakeReport();
  // Adds to the report what operations bring from a peer.
  void AddPosted(int peer, bool has_mapped, ExecuteReport::Peer& report);
  absl::Status Launch(base::Deadline deadline);
  absl::Status LaunchDigests(const Batch& batch);
  // One turn of what operations bring; launches its digests when it is done.
  absl::Status ServePosted();
  bool digests() const { return constants_ != nullptr; }
  absl::StatusOr<bool> Done(const Batch& batch) const;
  // That are worth their while in a run.
  size_t NumHelpers() const;
  Helpers& HelpersOfRun();
  // Until all queues are idle.
  absl::Status Drive(base::Deadline::Clock::time_point begin,
                     base::Deadline deadline, ExecuteReport& report);
  absl::Status CheckHealth() const;
  // Stops what runs, so that nothing writes any more; false if it would not
  // stop.
  bool Drain();
  absl::Span<const convert::DigestValue> ValuesOf(const DigestName& name) const;

  const ExecuteOptions options_;
  const int device_;
  Binding binding_;
  std::vector<std::byte*> pinned_;
  std::unique_ptr<memory::DeviceBuffer> zeros_;  // source of zero fills
  std::vector<Batch> batches_;
  std::map<DigestName, DigestSlice> digests_;
  const convert::DigestConstants* constants_ = nullptr;
  ExecuteReport report_;
  int64_t total_bytes_ = 0;
  int64_t num_values_ = 0;                // digests of all batches
  std::unique_ptr<DevicePosted> posted_;  // null: everything is mapped
  bool posted_left_ = false;              // of this run
  std::unique_ptr<Helpers> helpers_;
  // Destroyed first: nothing runs any more when the programs go.
  std::unique_ptr<memory::DeviceQueue> line_queue_;
  std::unique_ptr<memory::DeviceQueue> copy_queue_;
  std::unique_ptr<memory::DeviceQueue> digest_queue_;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_DEVICE_PROGRAM_INTERNAL_H_
