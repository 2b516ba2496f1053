// Workloads, one core, coverage proof included:
//   plan/smollm2   megatron:tp=1,pp=4,first=7,last=7 -> vllm:tp=3
//   plan/llama70b  fsdp:shard=64 -> vllm:tp=8,pp=4       (64 -> 32 ranks)
//   plan/llama70b-megatron  megatron:tp=8,pp=8 -> vllm:tp=8,pp=4
//   256 trainer ranks -> vllm:tp=8,dp=16,ep=128, of Kimi-K2 by Megatron, by
//   FSDP and by FSDP with expert parallelism, of DeepSeek-V3 and GLM-5 by FSDP
// Values:
//   plan/NAME         ms for one engine rank's plan, mean over at most 8 ranks;
//                     goal 5, from 256 sources 20
//   plan/NAME-index   ms for the index over all sources, made once for all
//   plan/NAME-expand  ms for one engine rank's moves and runs and their proof
//   plan/NAME-file    KiB of the largest of those plans as a file; goal 1024
//   plan/NAME-fleet   CPU seconds of all layouts, plans and the report, from
//                     256 sources; goal 2
//   plan/peak-memory  MiB, resident, after all that; goal 2048
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "fleet_report.h"
#include "plan_file.h"
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

// 384 experts in 60 of 61 layers, latent attention.
constexpr char kKimiK2[] = R"({"architectures": ["DeepseekV3ForCausalLM"],
 "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 64,
 "num_key_value_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512,
 "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
 "first_k_dense_replace": 1, "intermediate_size": 18432,
 "moe_intermediate_size": 2048, "n_routed_experts": 384,
 "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 1,
 "topk_group": 1, "vocab_size": 163840, "tie_word_embeddings": false,
 "num_nextn_predict_layers": 0, "moe_layer_freq": 1,
 "torch_dtype": "bfloat16"})";

constexpr char kDeepSeekV3[] = R"({"architectures": ["DeepseekV3ForCausalLM"],
 "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
 "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
 "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
 "first_k_dense_replace": 3, "intermediate_size": 18432,
 "moe_intermediate_size": 2048, "n_routed_experts": 256,
 "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8,
 "topk_group": 4, "vocab_size": 129280, "tie_word_embeddings": false,
 "num_nextn_predict_layers": 0, "moe_layer_freq": 1,
 "torch_dtype": "bfloat16"})";
constexpr char kGlm5[] = R"({"architectures": ["GlmMoeDsaForCausalLM"],
 "hidden_size": 6144, "num_hidden_layers": 78, "num_attention_heads": 64,
 "num_key_value_heads": 64, "q_lora_rank": 2048, "kv_lora_rank": 512,
 "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256,
 "index_n_heads": 32, "index_head_dim": 128,
 "first_k_dense_replace": 3, "intermediate_size": 12288,
 "moe_intermediate_size": 2048, "n_routed_experts": 256,
 "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 1,
 "topk_group": 1, "vocab_size": 154880, "tie_word_embeddings": false,
 "num_nextn_predict_layers": 0, "moe_layer_freq": 1,
 "torch_dtype": "bfloat16"})";

constexpr char kEngines[] = "vllm:tp=8,dp=16,ep=128";

struct Workload {
  const char* name;
  const char* config;
  const char* from;
  const char* to;
  bool is_large = false;
};

constexpr Workload kWorkloads[] = {
    {"plan/smollm2", kSmolLm2, "megatron:tp=1,pp=4,first=7,last=7",
     "vllm:tp=3"},
    {"plan/llama70b-fsdp", kLlama70b, "fsdp:shard=64", "vllm:tp=8,pp=4"},
    {"plan/llama70b-megatron", kLlama70b, "megatron:tp=8,pp=8",
     "vllm:tp=8,pp=4"},
    {"plan/kimi-k2-megatron", kKimiK2,
     "megatron:tp=8,pp=8,dp=4,ep=32,etp=1,first=7,last=6", kEngines, true},
    {"plan/kimi-k2-fsdp", kKimiK2, "fsdp:shard=256", kEngines, true},
    {"plan/kimi-k2-fsdp-ep", kKimiK2, "fsdp:shard=256,ep=8", kEngines, true},
    {"plan/deepseek-v3-fsdp", kDeepSeekV3, "fsdp:shard=256", kEngines, true},
    {"plan/glm-5-fsdp", kGlm5, "fsdp:shard=256", kEngines, true},
};
constexpr size_t kMaxRanks = 8;

absl::StatusOr<apps::PlanJob> MakeJob(const Workload& work) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() /
      absl::StrCat("weft_bench_config_", getpid(), ".json");
  std::ofstream(path) << work.config;
  absl::StatusOr<apps::PlanJob> job = apps::MakePlanJob(
      {.config_path = path.string(), .checkpoint_path = "", .recipes_path = ""},
      work.from, work.to);
  std::filesystem::remove(path);
  return job;
}

double CpuSeconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

absl::Status Report(const std::string& name, const std::string& unit, int runs,
                    std::optional<double> goal, const BenchOptions& options,
                    const std::function<absl::StatusOr<double>()>& measure) {
  WEFT_ASSIGN_OR_RETURN(const CaseResult result,
                        RunTimed(name, unit, runs, goal, measure));
  Print(result, options);
  return absl::OkStatus();
}

absl::Status BenchFleet(const Workload& work, const BenchOptions& options) {
  return Report(absl::StrCat(work.name, "-fleet"), "s", options.runs, 2,
                options, [&]() -> absl::StatusOr<double> {
                  const double start = CpuSeconds();
                  WEFT_ASSIGN_OR_RETURN(const apps::PlanJob job, MakeJob(work));
                  WEFT_RETURN_IF_ERROR(apps::PlanFleet(job, nullptr).status());
                  return CpuSeconds() - start;
                });
}

absl::Status BenchRanks(const Workload& work, const apps::PlanJob& job,
                        const BenchOptions& options,
                        std::vector<plan::CompactPlan>& plans) {
  const size_t step = std::max<size_t>(1, job.targets.size() / kMaxRanks);
  return Report(
      work.name, "ms/rank", options.runs, work.is_large ? 20 : 5, options,
      [&]() -> absl::StatusOr<double> {
        plans.clear();
        const double start = CpuSeconds();
        for (size_t r = 0; r < job.targets.size(); r += step) {
          WEFT_ASSIGN_OR_RETURN(plan::CompactPlan plan,
                                apps::PlanRank(job, static_cast<int64_t>(r)));
          plans.push_back(std::move(plan));
        }
        return 1e3 * (CpuSeconds() - start) / static_cast<double>(plans.size());
      });
}

absl::Status BenchIndex(const Workload& work, const apps::PlanJob& job,
                        const BenchOptions& options) {
  return Report(absl::StrCat(work.name, "-index"), "ms", options.runs,
                std::nullopt, options, [&]() -> absl::StatusOr<double> {
                  const double start = CpuSeconds();
                  WEFT_RETURN_IF_ERROR(
                      plan::SourceIndex::Make(job.index->sources()).status());
                  return 1e3 * (CpuSeconds() - start);
                });
}

absl::Status BenchExpand(const Workload& work, const apps::PlanJob& job,
                         const BenchOptions& options,
                         const plan::CompactPlan& compact) {
  return Report(absl::StrCat(work.name, "-expand"), "ms/rank", options.runs,
                std::nullopt, options, [&]() -> absl::StatusOr<double> {
                  const double start = CpuSeconds();
                  WEFT_ASSIGN_OR_RETURN(const plan::Plan plan,
                                        apps::ExpandRank(job, compact));
                  WEFT_RETURN_IF_ERROR(plan::CheckCoverage(
                      plan, *job.index, job.targets[compact.target_rank]));
                  return 1e3 * (CpuSeconds() - start);
                });
}

absl::Status BenchFile(const Workload& work, const BenchOptions& options,
                       const std::vector<plan::CompactPlan>& plans) {
  return Report(absl::StrCat(work.name, "-file"), "KiB", 1, 1024, options,
                [&]() -> absl::StatusOr<double> {
                  size_t most = 0;
                  for (const plan::CompactPlan& plan : plans) {
                    most = std::max(most, apps::PlanFileBytes(plan).size());
                  }
                  return static_cast<double>(most) / 1024;
                });
}

absl::Status BenchWorkload(const Workload& work, const BenchOptions& options) {
  WEFT_ASSIGN_OR_RETURN(const apps::PlanJob job, MakeJob(work));
  std::vector<plan::CompactPlan> plans;
  WEFT_RETURN_IF_ERROR(BenchRanks(work, job, options, plans));
  WEFT_RETURN_IF_ERROR(BenchIndex(work, job, options));
  WEFT_RETURN_IF_ERROR(BenchExpand(work, job, options, plans[0]));
  return BenchFile(work, options, plans);
}

}  // namespace

absl::Status BenchPlan(const BenchOptions& options) {
  for (const Workload& work : kWorkloads) {
    WEFT_RETURN_IF_ERROR(BenchWorkload(work, options));
    if (work.is_large) WEFT_RETURN_IF_ERROR(BenchFleet(work, options));
  }
  return Report("plan/peak-memory", "MiB", 1, 2048, options,
                []() -> absl::StatusOr<double> {
                  rusage usage = {};
                  getrusage(RUSAGE_SELF, &usage);
                  return static_cast<double>(usage.ru_maxrss) / 1024;
                });
}

}  // namespace weft::bench
