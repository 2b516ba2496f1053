#include "weft/recipe/framework_mesh.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/recipe/sglang_stages.h"
#include "weft/recipe/vllm_stages.h"

namespace weft::recipe {
namespace {

const std::vector<std::string>& AxesOf(Framework framework) {
  static const auto* const kFsdp =
      new std::vector<std::string>{"tp", "shard", "replicate"};
  static const auto* const kMegatron =
      new std::vector<std::string>{"tp", "cp", "dp", "pp"};
  static const auto* const kVllm =
      new std::vector<std::string>{"tp", "pp", "dp"};
  static const auto* const kSglang = new std::vector<std::string>{"tp", "pp"};
  static const auto* const kNone = new std::vector<std::string>{"tp"};
  switch (framework) {
    case Framework::kFsdp:
      return *kFsdp;
    case Framework::kMegatron:
      return *kMegatron;
    case Framework::kVllm:
      return *kVllm;
    case Framework::kSglang:
      return *kSglang;
    case Framework::kHf:
      return *kNone;
  }
  return *kNone;
}

bool IsEngine(Framework framework) {
  return framework == Framework::kVllm || framework == Framework::kSglang;
}

// A rank's place on an axis that is not one of the mesh; {1, 0} if absent.
struct Place {
  int64_t degree = 1, rank = 0;
};

// A rank's place in the grid of the experts.
struct ExpertGrid {
  Place ep;
  Place tp;  // that cuts each expert
};

ExpertGrid ExpertGridOf(const LayoutSpec& spec, const layout::Mesh& mesh,
                        int64_t rank) {
  const int64_t tp = mesh.Degree("tp"), tp_rank = mesh.Coordinate(rank, "tp");
  const int64_t ep = spec.Number("ep", 1);
  switch (spec.framework) {
    case Framework::kMegatron: {
      const int64_t etp = spec.Number("etp", tp);
      const int64_t in_stage =
          rank % (tp * mesh.Degree("cp") * mesh.Degree("dp"));
      return {{ep, in_stage / etp % ep}, {etp, in_stage % etp}};
    }
    case Framework::kSglang: {
      const int64_t moe_tp = std::max<int64_t>(tp / ep, 1);
      return {{ep, tp_rank / moe_tp}, {moe_tp, tp_rank % moe_tp}};
    }
    case Framework::kFsdp:
      return {{ep, mesh.Coordinate(rank, "shard") % ep}, {}};
    default: {
      // vLLM cuts experts over its data-parallel ranks as well.
      const int64_t flat = mesh.Coordinate(rank, "dp") * tp + tp_rank;
      if (ep > 1) return {{ep, flat}, {}};
      return {{}, {tp * mesh.Degree("dp"), flat}};
    }
  }
}

// The ranks that attention is cut over: fewer than tp where SGLang runs it
// data-parallel.
Place AttentionOf(const LayoutSpec& spec, const layout::Mesh& mesh,
                  int64_t rank) {
  const int64_t tp = mesh.Degree("tp"), tp_rank = mesh.Coordinate(rank, "tp");
  if (spec.framework != Framework::kSglang) return {tp, tp_rank};
  const int64_t attn_tp = std::max<int64_t>(tp / spec.Number("dp", 1), 1);
  return {attn_tp, tp_rank % attn_tp};
}

// True if the layout has copies of experts, or a table of where they lie.
bool BalancesExperts(const LayoutSpec& spec) {
  return spec.experts != nullptr || spec.numbers.count("redundant") != 0;
}

// True if the layout says anything of where experts lie beside degrees.
bool PlacesExperts(const LayoutSpec& spec) {
  return BalancesExperts(spec) || spec.words.count("placement") != 0;
}

// For how many layers the table of experts has lists; 0 without a table, or if
// it has one for all.
int64_t EplbLayers(const LayoutSpec& spec) {
  if (spec.experts == nullptr || !spec.experts->is_per_layer) return 0;
  return static_cast<int64_t>(spec.experts->lists.size());
}

// Copies of experts need several ranks.
absl::Status CheckBalanced(const LayoutSpec& spec) {
  if (!BalancesExperts(spec) || spec.Number("ep", 1) > 1) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "redundant= and eplb= balance experts over the ranks of ep, which is 1");
}

std::vector<std::string> SymbolsOf(Framework framework) {
  std::vector<std::string> symbols;
  const auto add = [&](const std::string& axis) {
    symbols.push_back(axis);
    symbols.push_back(axis + "_rank");
  };
  for (const std::string& axis : AxesOf(framework)) add(axis);
  add("ep");
  if (framework == Framework::kFsdp) return symbols;
  add(framework == Framework::kMegatron ? "etp" : "moe_tp");
  symbols.insert(symbols.end(),
                 {"layer_begin", "layer_end", "first_stage", "last_stage"});
  if (framework == Framework::kMegatron) {
    symbols.insert(symbols.end(),
                   {"mtp_stage", "vocab_divisor", "impl_te", "impl_local",
                    "experts_grouped", "experts_sequential", "mla_split",
                    "mla_fused", "mtp_model_layer"});
  } else {
    add("attn_tp");
    symbols.insert(symbols.end(),
                   {"is_vllm", "is_sglang", "fuse_shared", "places_experts",
                    "balances_experts", "eplb_layers", "quantised"});
    if (framework == Framework::kSglang) add("dp");
  }
  return symbols;
}

absl::Status CheckMegatronGrid(const LayoutSpec& spec,
                               const layout::Mesh& mesh) {
  const int64_t tp = mesh.Degree("tp"), ep = spec.Number("ep", 1);
  const int64_t etp = spec.Number("etp", tp);
  const int64_t ranks = tp * mesh.Degree("cp") * mesh.Degree("dp");
  // One after the other: their product may exceed 64 bits.
  if (ranks % etp == 0 && ranks / etp % ep == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "ep=", ep, " and etp=", etp, " do not divide the tp*cp*dp=", ranks,
      " ranks of a stage (etp is tp unless it is given)"));
}

absl::Status CheckVllmGrid(const LayoutSpec& spec, const layout::Mesh& mesh) {
  const int64_t ep = spec.Number("ep", 1);
  const int64_t ranks = mesh.Degree("tp") * mesh.Degree("dp");
  WEFT_RETURN_IF_ERROR(CheckBalanced(spec));
  if (ep == 1 || ep == ranks) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "ep=", ep, " is not the tp*dp=", ranks,
      " ranks of a stage, over all of which vLLM deals out experts; give ep=",
      ranks, " or leave it out"));
}

absl::Status CheckSglangGrid(const LayoutSpec& spec, const layout::Mesh& mesh) {
  const int64_t tp = mesh.Degree("tp");
  base::FaultList faults;
  for (const char* key : {"ep", "dp"}) {
    const int64_t degree = spec.Number(key, 1);
    if (tp % degree == 0) continue;
    faults.Add(absl::StrCat(key, "=", degree, " does not divide tp=", tp,
                            ", the ranks of a stage"));
  }
  if (const absl::Status status = CheckBalanced(spec); !status.ok()) {
    faults.Add(std::string(status.message()));
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::Status CheckFsdpGrid(const LayoutSpec& spec, const layout::Mesh& mesh) {
  const int64_t shard = mesh.Degree("shard"), ep = spec.Number("ep", 1);
  base::FaultList faults;
  if (shard % ep != 0) {
    faults.Add(absl::StrCat("ep=", ep, " does not divide shard=", shard));
  }
  if (ep > 1 && spec.Word("names", "memory") == "hf") {
    faults.Add(absl::StrCat("ep=", ep, " with names=hf: whole experts are ",
                            "dealt out under the names of memory only"));
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace

absl::StatusOr<layout::Mesh> MeshOf(const LayoutSpec& spec) {
  std::vector<layout::MeshAxis> axes;
  for (const std::string& axis : AxesOf(spec.framework)) {
    axes.push_back({axis, spec.Number(axis, 1)});
  }
  absl::StatusOr<layout::Mesh> mesh = layout::Mesh::Make(std::move(axes));
  if (!mesh.ok()) return base::Annotate(mesh.status(), spec.ToString());
  return mesh;
}

absl::Status CheckRank(const LayoutSpec& spec, const layout::Mesh& mesh,
                       int64_t rank) {
  if (rank >= 0 && rank < mesh.num_ranks()) return absl::OkStatus();
  if (rank < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " is negative"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "rank ", rank, " is not below the ", mesh.num_ranks(),
      mesh.num_ranks() == 1 ? " rank of " : " ranks of ", spec.ToString()));
}

absl::Status CheckGrids(const LayoutSpec& spec, const layout::Mesh& mesh) {
  switch (spec.framework) {
    case Framework::kMegatron:
      return CheckMegatronGrid(spec, mesh);
    case Framework::kVllm:
      return CheckVllmGrid(spec, mesh);
    case Framework::kSglang:
      return CheckSglangGrid(spec, mesh);
    case Framework::kFsdp:
      return CheckFsdpGrid(spec, mesh);
    case Framework::kHf:
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StageChunk>> ChunksOf(const LayoutSpec& spec,
                                                 const layout::Mesh& mesh,
                                                 int64_t rank,
                                                 int64_t num_layers) {
  const int64_t pp = mesh.Degree("pp");
  const int64_t stage = mesh.Coordinate(rank, "pp");
  if (spec.framework == Framework::kMegatron) {
    return MegatronStageChunks(
        {.num_layers = num_layers,
         .pp = pp,
         .vpp = spec.Number("vpp", 1),
         .first = spec.Number("first", 0),
         .last = spec.Number("last", 0),
         .embedding_in_split = spec.Word("embedding_in_split", "0") == "1",
         .loss_in_split = spec.Word("loss_in_split", "0") == "1",
         .layout = spec.Word("layout", "")},
        stage);
  }
  const tensor::Range layers = spec.framework == Framework::kSglang
                                   ? SglangStageLayers(num_layers, pp, stage)
                                   : VllmStageLayers(num_layers, pp, stage);
  return std::vector<StageChunk>{{layers, stage == 0, stage == pp - 1}};
}

ExpertPlacement PlacementOf(const LayoutSpec& spec, const layout::Mesh& mesh,
                            int64_t rank) {
  const ExpertGrid grid = ExpertGridOf(spec, mesh, rank);
  return {.ep = grid.ep.degree,
          .ep_rank = grid.ep.rank,
          .round_robin = spec.Word("placement", "linear") == "round_robin",
          .num_redundant = spec.Number("redundant", 0),
          .even = spec.framework == Framework::kSglang,
          .table = spec.experts};
}

const std::vector<std::string>& FrameworkSymbols(Framework framework) {
  static const auto* const kFsdp =
      new std::vector<std::string>(SymbolsOf(Framework::kFsdp));
  static const auto* const kMegatron =
      new std::vector<std::string>(SymbolsOf(Framework::kMegatron));
  static const auto* const kVllm =
      new std::vector<std::string>(SymbolsOf(Framework::kVllm));
  static const auto* const kSglang =
      new std::vector<std::string>(SymbolsOf(Framework::kSglang));
  if (framework == Framework::kFsdp) return *kFsdp;
  if (framework == Framework::kMegatron) return *kMegatron;
  return framework == Framework::kVllm ? *kVllm : *kSglang;
}

std::vector<int64_t> FrameworkSymbolValues(const LayoutSpec& spec,
                                           const layout::Mesh& mesh,
                                           int64_t rank,
                                           const StageChunk& chunk) {
  std::vector<int64_t> values;
  const auto add = [&](const Place& place) {
    values.push_back(place.degree);
    values.push_back(place.rank);
  };
  for (const std::string& axis : AxesOf(spec.framework)) {
    add({mesh.Degree(axis), mesh.Coordinate(rank, axis)});
  }
  const ExpertGrid experts = ExpertGridOf(spec, mesh, rank);
  add(experts.ep);
  if (spec.framework == Framework::kFsdp) return values;
  add(experts.tp);
  values.insert(values.end(), {chunk.layers.begin, chunk.layers.end,
                               chunk.first ? 1 : 0, chunk.last ? 1 : 0});
  if (IsEngine(spec.framework)) {
    const Place attention = AttentionOf(spec, mesh, rank);
    add(attention);
    const bool is_sglang = spec.framework == Framework::kSglang;
    const bool fuses = is_sglang && spec.Word("shared_fusion", "on") == "on";
    values.insert(
        values.end(),
        {is_sglang ? 0 : 1, is_sglang ? 1 : 0, fuses ? 1 : 0,
         PlacesExperts(spec) ? 1 : 0, BalancesExperts(spec) ? 1 : 0,
         EplbLayers(spec), spec.Word("quant", "none") == "none" ? 0 : 1});
    if (is_sglang) {
      add({spec.Number("dp", 1),
           mesh.Coordinate(rank, "tp") / attention.degree});
    }
    return values;
  }
  const bool is_te = spec.Word("impl", "te") == "te";
  const bool is_grouped = spec.Word("experts", "grouped") == "grouped";
  const bool is_split = spec.Word("mla", "split") == "split";
  values.insert(values.end(),
                {chunk.mtp ? 1 : 0, spec.Number("vocab_divisor", 0),
                 is_te ? 1 : 0, is_te ? 0 : 1, is_grouped ? 1 : 0,
                 is_grouped ? 0 : 1, is_split ? 1 : 0, is_split ? 0 : 1,
                 spec.Word("mtp", "model_layer") == "model_layer" ? 1 : 0});
  return values;
}

std::vector<std::pair<std::string, std::string>> FrameworkTexts(
    Framework framework) {
  if (framework == Framework::kVllm) {
    return {{"routed_experts", "experts.routed_experts"}};
  }
  if (framework == Framework::kSglang) return {{"routed_experts", "experts"}};
  return {};
}

}  // namespace weft::recipe
