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

std::vector<std::string> SymbolsOf(Framework framework) {
  std::vector<std::string> symbols;
  for (const std::string& axis : AxesOf(framework)) {
    symbols.push_back(axis);
    symbols.push_back(axis + "_rank");
  }
  symbols.insert(symbols.end(),
                 {"layer_begin", "layer_end", "first_stage", "last_stage"});
  if (framework == Framework::kMegatron) {
    symbols.insert(symbols.end(), {"vocab_divisor", "impl_te", "impl_local"});
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
  const int64_t stage = mesh.Coordinate(rank, "pp");
  values.insert(values.end(), {layers.begin, layers.end, stage == 0 ? 1 : 0,
                               stage == mesh.Degree("pp") - 1 ? 1 : 0});
  if (spec.framework == Framework::kMegatron) {
    const bool is_te = spec.Word("impl", "te") == "te";
    values.insert(values.end(), {spec.Number("vocab_divisor", 0), is_te ? 1 : 0,
                                 is_te ? 0 : 1});
  }
  return values;
}

}  // namespace weft::recipe
