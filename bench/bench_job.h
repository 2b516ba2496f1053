// Jobs that refit benchmarks run: placements of all source ranks and of the
// one target rank that is measured. The sources run in processes of their own
// (`weft bench-source`), so both sides build the job from its name.
#ifndef WEFT_BENCH_BENCH_JOB_H_
#define WEFT_BENCH_BENCH_JOB_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/manifest/placement.h"

namespace weft::bench {

struct BenchJob {
  std::vector<manifest::Placement> sources;
  manifest::Placement target;
};

// Names (bytes = about what the target rank receives):
//   contiguous      one source, one tensor, the same layout at both ends
//   strided         Llama layers, megatron:tp=2 -> vllm:tp=4 rank 1
//   runs-256B       [n,256] bf16, target takes columns 64..191 of each row
//   runs-8KiB       [n,8192] bf16, target takes 4096 columns of each row
//   control         4 ranks of megatron:tp=4, a tiny model, vllm:tp=2 rank 0
//   ranks:RANK      the same of megatron:tp=16, vllm:tp=16 rank RANK
//   qwen3:FROM>TO   Qwen3-8B's layers, as many as make `bytes` with its
//                   embeddings, in layout FROM at all ranks, TO at rank 0
absl::StatusOr<BenchJob> MakeBenchJob(const std::string& name, int64_t bytes);

// What the job's sources publish under.
std::string ModelNameOf(const std::string& job);

struct BenchSourceArgs {
  std::string catalog;
  std::string job;
  std::string transport = "auto";
  std::string device = "cpu";
  int64_t bytes = 0;
  int64_t rank = 0;
};
// Publishes one rank of a job and changes it at each "step" line on standard
// input; "quit" ends. For the benchmarks' child processes.
int RunBenchSource(const BenchSourceArgs& args);

}  // namespace weft::bench

#endif  // WEFT_BENCH_BENCH_JOB_H_
