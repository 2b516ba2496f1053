#include "bench_job.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "console.h"
#include "endpoints.h"
#include "rank_store.h"
#include "weft/base/status.h"
#include "weft/recipe/recipe.h"
#include "weft/session/publisher.h"
#include "weft/session/rank_placement.h"

namespace weft::bench {
namespace {

// A tensor [rows, cols] of bf16 of which the source holds all and the target
// columns [begin, end).
absl::StatusOr<BenchJob> ColumnJob(int64_t rows, int64_t cols, int64_t begin,
                                   int64_t end) {
  const tensor::TensorSpec spec{"w", tensor::DType::kBF16, {rows, cols}};
  const auto place =
      [&](tensor::Range range) -> absl::StatusOr<manifest::Placement> {
    manifest::Placement placement;
    placement.layout_spec = "bench";
    placement.tensors = {spec};
    layout::StoredTensor stored{
        "w", spec.dtype, {rows, range.extent()}, {}, {}};
    WEFT_ASSIGN_OR_RETURN(const tensor::Box box,
                          tensor::Box::Make({{0, rows}, range}));
    WEFT_ASSIGN_OR_RETURN(layout::IndexMap map, layout::IndexMap::RowMajor(
                                                    box, stored.shape, {0, 0}));
    stored.fragments.push_back({0, std::move(map)});
    placement.stored.push_back(std::move(stored));
    return placement;
  };
  BenchJob job;
  WEFT_ASSIGN_OR_RETURN(manifest::Placement source, place({0, cols}));
  job.sources.push_back(std::move(source));
  WEFT_ASSIGN_OR_RETURN(job.target, place({begin, end}));
  return job;
}

absl::StatusOr<BenchJob> RecipeJob(const std::string& config_text,
                                   const std::string& from,
                                   const std::string& to, int64_t to_rank) {
  WEFT_ASSIGN_OR_RETURN(const recipe::ModelConfig config,
                        recipe::ParseModelConfig(config_text));
  WEFT_ASSIGN_OR_RETURN(const recipe::RecipeBook book,
                        recipe::RecipeBook::Load(""));
  WEFT_ASSIGN_OR_RETURN(const recipe::Recipe* recipe,
                        book.Find(config.architecture));
  WEFT_ASSIGN_OR_RETURN(const auto logical, recipe->LogicalTensors(config));
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec from_spec,
                        recipe::ParseLayoutSpec(from));
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec to_spec,
                        recipe::ParseLayoutSpec(to));
  WEFT_ASSIGN_OR_RETURN(const int64_t ranks,
                        recipe->NumRanks(config, from_spec));
  BenchJob job;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    WEFT_ASSIGN_OR_RETURN(recipe::RankLayout layout,
                          recipe->Layout(config, from_spec, rank, logical));
    job.sources.push_back(session::ToPlacement(std::move(layout)));
  }
  WEFT_ASSIGN_OR_RETURN(recipe::RankLayout layout,
                        recipe->Layout(config, to_spec, to_rank, logical));
  job.target = session::ToPlacement(std::move(layout));
  return job;
}

std::string LlamaConfig(int64_t hidden, int64_t intermediate, int64_t heads,
                        int64_t kv_heads, int64_t layers, int64_t vocab) {
  return absl::StrCat(
      R"({"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", )",
      R"("tie_word_embeddings": true, "hidden_size": )", hidden,
      R"(, "intermediate_size": )", intermediate,
      R"(, "num_attention_heads": )", heads, R"(, "num_key_value_heads": )",
      kv_heads, R"(, "num_hidden_layers": )", layers, R"(, "vocab_size": )",
      vocab, "}");
}

// Qwen3-8B but for the number of layers: 16.4 GB in bf16 with all 36.
std::string Qwen3Config(int64_t bytes) {
  constexpr int64_t kOutsideBytes = 2489319424;  // embeddings at both ends
  constexpr int64_t kLayerBytes = 385885184;
  const int64_t layers =
      std::clamp<int64_t>((bytes - kOutsideBytes) / kLayerBytes, 1, 36);
  return absl::StrCat(
      R"({"architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16", )",
      R"("tie_word_embeddings": false, "hidden_size": 4096, "head_dim": 128, )",
      R"("intermediate_size": 12288, "num_attention_heads": 32, )",
      R"("num_key_value_heads": 8, "num_hidden_layers": )", layers,
      R"(, "vocab_size": 151936, "rms_norm_eps": 1e-06})");
}

// Not a checkpoint: any varied bits do.
void Fill(absl::Span<std::byte> bytes, uint64_t seed) {
  auto* words = reinterpret_cast<uint64_t*>(bytes.data());
  for (size_t i = 0; i < bytes.size() / 8; ++i) {
    words[i] = (i + seed) * 0x9e3779b97f4a7c15u;
  }
}

absl::Status Serve(const BenchSourceArgs& args) {
  WEFT_ASSIGN_OR_RETURN(BenchJob job, MakeBenchJob(args.job, args.bytes));
  WEFT_ASSIGN_OR_RETURN(const auto store, apps::ConnectCatalog(args.catalog));
  WEFT_ASSIGN_OR_RETURN(const apps::DeviceChoice device,
                        apps::ChooseDevice(args.device));
  WEFT_ASSIGN_OR_RETURN(auto transports,
                        apps::MakeTransports(args.transport, device));
  session::PublisherOptions options;
  options.model = ModelNameOf(args.job);
  options.placement = std::move(job.sources.at(args.rank));
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<apps::RankStore> ranks,
                        apps::RankStore::Allocate(options.placement, device));
  const absl::Span<std::byte> bytes = ranks->host().areas[0].bytes;
  Fill(bytes, 1);
  WEFT_RETURN_IF_ERROR(ranks->Upload());
  options.memory = ranks->memory();
  options.device = device.Options();
  options.catalog = store;
  options.transports = std::move(transports);
  WEFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<session::Publisher> publisher,
      session::Publisher::Create(std::move(options), Patience()));
  std::string line = "step";
  for (uint64_t step = 0; line == "step"; ++step) {
    WEFT_RETURN_IF_ERROR(publisher->BeginUpdate(Patience()).status());
    Fill(bytes.subspan(0, std::min<size_t>(bytes.size(), 1 << 20)), step);
    WEFT_RETURN_IF_ERROR(ranks->Upload());
    WEFT_ASSIGN_OR_RETURN(const session::PublishReport report,
                          publisher->Publish(step, Patience()));
    apps::PrintLine(absl::StrCat("published ", report.control_seconds));
    if (!std::getline(std::cin, line)) break;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BenchJob> MakeBenchJob(const std::string& name, int64_t bytes) {
  if (name == "contiguous") return ColumnJob(bytes / 8192, 4096, 0, 4096);
  if (name == "runs-256B") return ColumnJob(bytes / 256, 256, 64, 192);
  if (name == "runs-8KiB") return ColumnJob(bytes / 8192, 8192, 4096, 8192);
  if (name == "strided") {
    // One layer of this width gives a tp=4 rank 109 MB.
    const int64_t layers = std::max<int64_t>(1, bytes / 109'000'000);
    return RecipeJob(LlamaConfig(4096, 14336, 32, 8, layers, 256),
                     "megatron:tp=2", "vllm:tp=4", 1);
  }
  if (name == "control") {
    return RecipeJob(LlamaConfig(256, 512, 8, 4, 2, 256), "megatron:tp=4",
                     "vllm:tp=2", 0);
  }
  if (int64_t rank = 0;
      name.rfind("ranks:", 0) == 0 && absl::SimpleAtoi(name.substr(6), &rank)) {
    return RecipeJob(LlamaConfig(256, 512, 16, 16, 2, 256), "megatron:tp=16",
                     "vllm:tp=16", rank);
  }
  if (const size_t arrow = name.find('>');
      name.rfind("qwen3:", 0) == 0 && arrow != std::string::npos) {
    return RecipeJob(Qwen3Config(bytes), name.substr(6, arrow - 6),
                     name.substr(arrow + 1), 0);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown benchmark job \"", name, "\""));
}

std::string ModelNameOf(const std::string& job) {
  std::string name = job;
  for (char& c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c))) c = '-';
  }
  return name;
}

int RunBenchSource(const BenchSourceArgs& args) {
  const absl::Status status = Serve(args);
  return status.ok() ? 0 : apps::Fail("bench-source", status);
}

}  // namespace weft::bench
