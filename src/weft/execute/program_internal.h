// The one implementation of Program, for both directions.
#ifndef WEFT_EXECUTE_PROGRAM_INTERNAL_H_
#define WEFT_EXECUTE_PROGRAM_INTERNAL_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weft/execute/binding_internal.h"
#include "weft/execute/block_internal.h"
#include "weft/execute/executor.h"
#include "weft/execute/local_work_internal.h"
#include "weft/execute/mapped_compile_internal.h"
#include "weft/execute/posted_driver_internal.h"

namespace weft::execute {

class BoundProgram : public Program {
 public:
  static absl::StatusOr<std::unique_ptr<Program>> Make(
      const BindInputs& inputs, const convert::Kernels& kernels);

  absl::StatusOr<ExecuteReport> Run(base::Deadline deadline) override;
  absl::Span<const std::byte> scratch() const override;
  absl::Span<const convert::DigestValue> ConvertedDigests(
      size_t peer_index, size_t move_index) const override;
  void SetDigestConstants(const convert::DigestConstants* constants) override {
    constants_ = constants;
  }

 private:
  BoundProgram(ExecuteOptions options, const convert::Kernels& kernels)
      : options_(std::move(options)), kernels_(kernels) {}

  absl::Status Compile(const BindInputs& inputs);
  void MakeReportTemplate();
  void RunChunk(int64_t chunk_index);
  void RunSlotJob(const SlotJob& job);
  void Digest(const std::byte* base, const layout::IndexMap& map,
              tensor::DType dtype, int32_t table);

  absl::Status Drive(base::Deadline deadline);
  // Now and then: deadline, health of the peers, progress.
  absl::Status LookAround(base::Deadline deadline);
  absl::Status CheckHealth();
  absl::Status FlushPeers(base::Deadline deadline);
  absl::Status DeadlineFault();
  int64_t BytesDone(int peer) const;
  // "get from publisher rank 3, tensor \"w\", 10 of 20 bytes done".
  std::string Where(const std::string& phase, int peer, int32_t move) const;
  // What peer number `peer` is at, by the same words.
  std::string Standing(int peer) const;

  const ExecuteOptions options_;
  const convert::Kernels& kernels_;
  Binding binding_;
  MappedProgram mapped_;
  std::vector<bool> peer_is_mapped_;  // has mapped chunks
  std::vector<std::atomic<int64_t>> mapped_bytes_done_;
  std::vector<std::unique_ptr<DigestTable>> tables_;
  const convert::DigestConstants* constants_ = nullptr;
  ExecuteReport report_;  // all but what a run measures
  int64_t total_bytes_ = 0;
  base::Deadline::Clock::time_point next_health_;
  base::Deadline::Clock::time_point next_progress_;
  std::unique_ptr<PostedDriver> posted_;
  // Last: its threads use all of the above.
  std::unique_ptr<LocalWork> work_;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_PROGRAM_INTERNAL_H_
