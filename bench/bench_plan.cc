// Workloads, one core, coverage proof included:
//   plan/smollm2   megatron:tp=1,pp=4,first=7,last=7 -> vllm:tp=3
//   plan/llama70b  fsdp:shard=64 -> vllm:tp=8,pp=4       (64 -> 32 ranks)
//   plan/llama70b-megatron  megatron:tp=8,pp=8 -> vllm:tp=8,pp=4
// Value: milliseconds for one engine rank, mean over the ranks; the index over
// all sources, made once for all ranks, is a case of its own. Goal: 5 ms.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "plan_job.h"
#include "weft/base/status.h"

namespace weft::bench {
namespace {

constexpr char kSmolLm2[] = R"({"architectures": ["LlamaForCausalLM"],
 "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
 "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
 "tie_word_embeddings": true, "torch_dtype": "bfloat16"})";
constexpr char kLlama70b[] = R"({"architectures": ["LlamaForCausalLM"],
 "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
 "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256,
 "tie_word_embeddings": false, "torch_dtype": "bfloat16"})";

struct Workload {
  const char* name;
  const char* config;
  const char* from;
  const char* to;
};

constexpr Workload kWorkloads[] = {
    {"plan/smollm2", kSmolLm2, "megatron:tp=1,pp=4,first=7,last=7",
     "vllm:tp=3"},
    {"plan/llama70b-fsdp", kLlama70b, "fsdp:shard=64", "vllm:tp=8,pp=4"},
    {"plan/llama70b-megatron", kLlama70b, "megatron:tp=8,pp=8",
     "vllm:tp=8,pp=4"},
};
constexpr double kGoalMilliseconds = 5;

double MillisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now() - start)
      .count();
}

absl::StatusOr<apps::PlanJob> MakeJob(const Workload& work) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() /
      absl::StrCat("weft_bench_config_", getpid(), ".json");
  std::ofstream(path) << work.config;
  absl::StatusOr<apps::PlanJob> job =
      apps::MakePlanJob(path.string(), "", work.from, work.to);
  std::filesystem::remove(path);
  return job;
}

}  // namespace

absl::Status BenchPlan(const BenchOptions& options) {
  for (const Workload& work : kWorkloads) {
    WEFT_ASSIGN_OR_RETURN(const apps::PlanJob job, MakeJob(work));
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult ranks,
        RunTimed(work.name, "ms/rank", options.runs, kGoalMilliseconds,
                 [&]() -> absl::StatusOr<double> {
                   const auto start = std::chrono::steady_clock::now();
                   for (size_t r = 0; r < job.targets.size(); ++r) {
                     WEFT_RETURN_IF_ERROR(
                         apps::PlanRank(job, static_cast<int64_t>(r)).status());
                   }
                   return MillisecondsSince(start) /
                          static_cast<double>(job.targets.size());
                 }));
    Print(ranks, options);
    WEFT_ASSIGN_OR_RETURN(
        const CaseResult index,
        RunTimed(absl::StrCat(work.name, "-index"), "ms", options.runs,
                 std::nullopt, [&]() -> absl::StatusOr<double> {
                   const auto start = std::chrono::steady_clock::now();
                   WEFT_RETURN_IF_ERROR(
                       plan::SourceIndex::Make(job.index->sources()).status());
                   return MillisecondsSince(start);
                 }));
    Print(index, options);
  }
  return absl::OkStatus();
}

}  // namespace weft::bench
