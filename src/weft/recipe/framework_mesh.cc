#include "weft/recipe/framework_mesh.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/recipe/megatron_stages.h"
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
  static const auto* const kNone = new std::vector<std::string>{"tp"};
  switch (framework) {
    case Framework::kFsdp:
      return *kFsdp;
    case Framework::kMegatron:
      return *kMegatron;
    case Framework::kVllm:
      return *kVllm;
    case Framework::kHf:
      return *kNone;
  }
  return *kNone;
}

// A rank's place in the grid of the experts; {1, 0} where an axis is absent.
struct ExpertGrid {
  int64_t ep = 1, ep_rank = 0;
  int64_t tp = 1, tp_rank = 0;  // that cuts each expert
};

ExpertGrid ExpertGridOf(const LayoutSpec& spec, const layout::Mesh& mesh,
                        int64_t rank) {
  const int64_t tp = mesh.Degree("tp");
  const int64_t ep = spec.Number("ep", 1);
  if (spec.framework == Framework::kMegatron) {
    const int64_t etp = spec.Number("etp", tp);
    const int64_t in_stage =
        rank % (tp * mesh.Degree("cp") * mesh.Degree("dp"));
    return {ep, in_stage / etp % ep, etp, in_stage % etp};
  }
  // An engine cuts experts over its data-parallel ranks as well.
  const int64_t flat =
      mesh.Coordinate(rank, "dp") * tp + mesh.Coordinate(rank, "tp");
  if (ep > 1) return {ep, flat, 1, 0};
  return {1, 0, tp * mesh.Degree("dp"), flat};
}

std::vector<std::string> SymbolsOf(Framework framework) {
  std::vector<std::string> symbols;
  for (const std::string& axis : AxesOf(framework)) {
    symbols.push_back(axis);
    symbols.push_back(axis + "_rank");
  }
  const std::string expert_tp =
      framework == Framework::kMegatron ? "etp" : "moe_tp";
  symbols.insert(symbols.end(),
                 {"ep", "ep_rank", expert_tp, expert_tp + "_rank"});
  symbols.insert(symbols.end(),
                 {"layer_begin", "layer_end", "first_stage", "last_stage"});
  if (framework == Framework::kMegatron) {
    symbols.insert(symbols.end(), {"vocab_divisor", "impl_te", "impl_local",
                                   "experts_grouped", "experts_sequential"});
  }
  return symbols;
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

absl::Status CheckExpertGrid(const LayoutSpec& spec, const layout::Mesh& mesh) {
  const int64_t ep = spec.Number("ep", 1);
  const int64_t tp = mesh.Degree("tp"), dp = mesh.Degree("dp");
  if (spec.framework == Framework::kMegatron) {
    const int64_t etp = spec.Number("etp", tp);
    const int64_t ranks = tp * mesh.Degree("cp") * dp;
    // One after the other: their product may exceed 64 bits.
    if (ranks % etp == 0 && ranks / etp % ep == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "ep=", ep, " and etp=", etp, " do not divide the tp*cp*dp=", ranks,
        " ranks of a stage (etp is tp unless it is given)"));
  }
  if (spec.framework != Framework::kVllm || ep == 1 || ep == tp * dp) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "ep=", ep, " is not the tp*dp=", tp * dp,
      " ranks of a stage, over all of which vLLM deals out experts; give ep=",
      tp * dp, " or leave it out"));
}

absl::StatusOr<tensor::Range> LayersOf(const LayoutSpec& spec,
                                       const layout::Mesh& mesh, int64_t rank,
                                       int64_t num_layers) {
  const int64_t pp = mesh.Degree("pp");
  const int64_t stage = mesh.Coordinate(rank, "pp");
  if (spec.framework == Framework::kMegatron) {
    return MegatronStageLayers({.num_layers = num_layers,
                                .pp = pp,
                                .first = spec.Number("first", 0),
                                .last = spec.Number("last", 0)},
                               stage);
  }
  return VllmStageLayers(num_layers, pp, stage);
}

const std::vector<std::string>& FrameworkSymbols(Framework framework) {
  static const auto* const kMegatron =
      new std::vector<std::string>(SymbolsOf(Framework::kMegatron));
  static const auto* const kVllm =
      new std::vector<std::string>(SymbolsOf(Framework::kVllm));
  return framework == Framework::kMegatron ? *kMegatron : *kVllm;
}

std::vector<int64_t> FrameworkSymbolValues(const LayoutSpec& spec,
                                           const layout::Mesh& mesh,
                                           int64_t rank, tensor::Range layers) {
  std::vector<int64_t> values;
  for (const std::string& axis : AxesOf(spec.framework)) {
    values.push_back(mesh.Degree(axis));
    values.push_back(mesh.Coordinate(rank, axis));
  }
  const ExpertGrid experts = ExpertGridOf(spec, mesh, rank);
  values.insert(values.end(),
                {experts.ep, experts.ep_rank, experts.tp, experts.tp_rank});
  const int64_t stage = mesh.Coordinate(rank, "pp");
  values.insert(values.end(), {layers.begin, layers.end, stage == 0 ? 1 : 0,
                               stage == mesh.Degree("pp") - 1 ? 1 : 0});
  if (spec.framework == Framework::kMegatron) {
    const bool is_te = spec.Word("impl", "te") == "te";
    const bool is_grouped = spec.Word("experts", "grouped") == "grouped";
    values.insert(values.end(),
                  {spec.Number("vocab_divisor", 0), is_te ? 1 : 0,
                   is_te ? 0 : 1, is_grouped ? 1 : 0, is_grouped ? 0 : 1});
  }
  return values;
}

}  // namespace weft::recipe
