#include "weft/recipe/recipe.h"

#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/recipe/data_recipe.h"
#include "weft/recipe/embedded_recipes.h"
#include "weft/recipe/framework_mesh.h"
#include "weft/recipe/recipe_parser.h"
#include "weft/recipe/stored_builder.h"
#include "weft/recipe/table_expander.h"

namespace weft::recipe {
namespace {

std::optional<tensor::DType> ChosenDType(const LayoutSpec& spec) {
  const std::string word = spec.Word("dtype", "auto");
  if (word == "bf16") return tensor::DType::kBF16;
  if (word == "f16") return tensor::DType::kF16;
  if (word == "f32") return tensor::DType::kF32;
  return std::nullopt;
}

absl::StatusOr<std::vector<std::string>> IgnoredNames(
    const RecipeTables& tables, const Environment& environment) {
  WEFT_ASSIGN_OR_RETURN(
      const std::vector<LogicalTensor> ignored,
      ExpandLogical(tables.ignore, environment, tensor::DType::kBF16));
  std::vector<std::string> names;
  for (const LogicalTensor& logical : ignored) {
    names.push_back(logical.spec.name);
  }
  return names;
}

// The checkpoint's tensors in the recipe's order, without those that are
// dropped. All faults at once: missing, extra, twice, of another shape.
absl::StatusOr<std::vector<tensor::TensorSpec>> MatchCheckpoint(
    const std::vector<LogicalTensor>& expected,
    const std::vector<std::string>& ignored,
    const std::vector<tensor::TensorSpec>& given) {
  base::FaultList faults;
  absl::flat_hash_map<std::string, const tensor::TensorSpec*> unmatched;
  for (const tensor::TensorSpec& spec : given) {
    if (!unmatched.emplace(spec.name, &spec).second) {
      faults.Add(
          absl::StrCat("the checkpoint lists \"", spec.name, "\" twice"));
    }
  }
  std::vector<tensor::TensorSpec> matched;
  for (const LogicalTensor& want : expected) {
    const auto found = unmatched.find(want.spec.name);
    if (found == unmatched.end()) {
      faults.Add(absl::StrCat("the checkpoint lacks \"", want.spec.name, "\" ",
                              tensor::ShapeToString(want.spec.shape)));
      continue;
    }
    const tensor::TensorSpec& have = *found->second;
    if (have.shape != want.spec.shape) {
      faults.Add(absl::StrCat("\"", have.name, "\" has shape ",
                              tensor::ShapeToString(have.shape),
                              " in the checkpoint, but the config says ",
                              tensor::ShapeToString(want.spec.shape)));
    }
    matched.push_back(have);
    unmatched.erase(found);
  }
  for (const std::string& name : ignored) unmatched.erase(name);
  for (const tensor::TensorSpec& spec : given) {
    if (unmatched.contains(spec.name)) {
      faults.Add(absl::StrCat("the checkpoint has \"", spec.name,
                              "\", which the recipe does not know"));
    }
  }
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  return matched;
}

class DataRecipe : public Recipe {
 public:
  explicit DataRecipe(RecipeTables tables) : tables_(std::move(tables)) {}

  const std::string& family() const override { return tables_.family; }
  const std::vector<std::string>& architectures() const override {
    return tables_.architectures;
  }

  absl::StatusOr<std::vector<tensor::TensorSpec>> LogicalTensors(
      const ModelConfig& config) const override {
    WEFT_ASSIGN_OR_RETURN(const Environment environment, Bind(config));
    WEFT_ASSIGN_OR_RETURN(
        std::vector<LogicalTensor> logical,
        ExpandLogical(tables_.checkpoint, environment, config.dtype));
    std::vector<tensor::TensorSpec> specs;
    specs.reserve(logical.size());
    for (LogicalTensor& one : logical) specs.push_back(std::move(one.spec));
    return specs;
  }

  absl::StatusOr<bool> IsIgnorable(const ModelConfig& config,
                                   const std::string& name) const override {
    WEFT_ASSIGN_OR_RETURN(const Environment environment, Bind(config));
    WEFT_ASSIGN_OR_RETURN(const std::vector<std::string> ignored,
                          IgnoredNames(tables_, environment));
    for (const std::string& one : ignored) {
      if (one == name) return true;
    }
    return false;
  }

  absl::StatusOr<int64_t> NumRanks(const ModelConfig& config,
                                   const LayoutSpec& spec) const override {
    WEFT_RETURN_IF_ERROR(Bind(config).status());
    WEFT_RETURN_IF_ERROR(TableOf(spec).status());
    WEFT_ASSIGN_OR_RETURN(const layout::Mesh mesh, MeshOf(spec));
    return mesh.num_ranks();
  }

  absl::StatusOr<RankLayout> Layout(
      const ModelConfig& config, const LayoutSpec& spec, int64_t rank,
      const std::vector<tensor::TensorSpec>& logical) const override {
    WEFT_ASSIGN_OR_RETURN(const FrameworkTable* const table, TableOf(spec));
    WEFT_ASSIGN_OR_RETURN(const layout::Mesh mesh, MeshOf(spec));
    WEFT_RETURN_IF_ERROR(CheckRank(spec, mesh, rank));
    WEFT_ASSIGN_OR_RETURN(const Environment environment, Bind(config));
    // The spec's faults before the checkpoint's: they need no file.
    std::vector<StoredDescription> descriptions;
    if (table != nullptr) {
      WEFT_ASSIGN_OR_RETURN(descriptions,
                            Describe(*table, environment, spec, mesh, rank));
    }
    WEFT_ASSIGN_OR_RETURN(
        const std::vector<LogicalTensor> expected,
        ExpandLogical(tables_.checkpoint, environment, config.dtype));
    WEFT_ASSIGN_OR_RETURN(const std::vector<std::string> ignored,
                          IgnoredNames(tables_, environment));
    WEFT_ASSIGN_OR_RETURN(std::vector<tensor::TensorSpec> matched,
                          MatchCheckpoint(expected, ignored, logical));
    StoredBuilder builder(std::move(matched), ChosenDType(spec));
    for (const StoredDescription& description : descriptions) {
      WEFT_RETURN_IF_ERROR(builder.AddDescribed(description));
    }
    if (table == nullptr) {
      WEFT_RETURN_IF_ERROR(
          AddBoxes(expected, environment, spec, mesh, rank, builder));
    }
    StoredBuilder::Result built = builder.Take();
    RankLayout result;
    result.layout_spec = spec.ToString();
    result.rank = rank;
    result.num_ranks = mesh.num_ranks();
    result.tensors = std::move(built.tensors);
    result.stored = std::move(built.stored);
    return result;
  }

 private:
  absl::StatusOr<Environment> Bind(const ModelConfig& config) const {
    WEFT_ASSIGN_OR_RETURN(Environment environment, BindConfig(tables_, config));
    base::FaultList faults;
    WEFT_RETURN_IF_ERROR(
        CheckRequirements(tables_.requirements, environment, faults));
    WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
    return environment;
  }

  // nullptr for the frameworks that hold the checkpoint's own tensors.
  absl::StatusOr<const FrameworkTable*> TableOf(const LayoutSpec& spec) const {
    if (spec.framework == Framework::kHf ||
        spec.framework == Framework::kFsdp) {
      return nullptr;
    }
    const std::optional<FrameworkTable>& table =
        spec.framework == Framework::kMegatron ? tables_.megatron
                                               : tables_.vllm;
    if (table) return &*table;
    return absl::UnimplementedError(absl::StrCat(
        "recipe ", tables_.file, " has no table for ", spec.ToString()));
  }

  absl::StatusOr<std::vector<StoredDescription>> Describe(
      const FrameworkTable& table, Environment environment,
      const LayoutSpec& spec, const layout::Mesh& mesh, int64_t rank) const {
    WEFT_ASSIGN_OR_RETURN(const int64_t num_layers,
                          tables_.layers.Evaluate(environment));
    base::FaultList faults;
    const absl::StatusOr<tensor::Range> layers =
        LayersOf(spec, mesh, rank, num_layers);
    const std::vector<int64_t> values = FrameworkSymbolValues(
        spec, mesh, rank, layers.value_or(tensor::Range{}));
    environment.values.insert(environment.values.end(), values.begin(),
                              values.end());
    WEFT_RETURN_IF_ERROR(
        CheckRequirements(table.requirements, environment, faults));
    if (!layers.ok()) faults.Add(std::string(layers.status().message()));
    if (const absl::Status status = CheckExpertGrid(spec, mesh); !status.ok()) {
      faults.Add(std::string(status.message()));
    }
    if (const absl::Status status =
            faults.ToStatus(absl::StatusCode::kInvalidArgument);
        !status.ok()) {
      return base::Annotate(status, spec.ToString());
    }
    WEFT_RETURN_IF_ERROR(EvaluateLets(table.lets, environment));
    return ExpandStored(table.tensors, environment);
  }

  // What fsdp holds under other names than the file's. kUnimplemented if
  // tensor parallelism would have to cut it.
  absl::StatusOr<std::vector<StoredDescription>> InMemory(
      const Environment& environment, const LayoutSpec& spec) const {
    const bool as_file = spec.framework != Framework::kFsdp ||
                         spec.Word("names", "memory") == "hf";
    if (as_file || tables_.memory.empty()) {
      return std::vector<StoredDescription>();
    }
    WEFT_ASSIGN_OR_RETURN(std::vector<StoredDescription> held,
                          ExpandStored(tables_.memory, environment));
    if (held.empty() || spec.Number("tp", 1) == 1) return held;
    return absl::UnimplementedError(
        absl::StrCat(spec.ToString(), ": tp=", spec.Number("tp", 1),
                     " with names=memory is ", "not supported for ",
                     tables_.family, ", whose \"", held.front().name,
                     "\" is fused in memory; give names=hf or tp=1"));
  }

  // Every tensor of the checkpoint under its own name, whole for hf, the
  // rank's box for fsdp (an empty one too), but for those that memory holds in
  // another form.
  absl::Status AddBoxes(const std::vector<LogicalTensor>& expected,
                        const Environment& environment, const LayoutSpec& spec,
                        const layout::Mesh& mesh, int64_t rank,
                        StoredBuilder& builder) const {
    WEFT_ASSIGN_OR_RETURN(const std::vector<StoredDescription> in_memory,
                          InMemory(environment, spec));
    absl::flat_hash_set<std::string> taken;
    for (const StoredDescription& description : in_memory) {
      for (const std::vector<StoredPart>& entry : description.entries) {
        for (const StoredPart& part : entry) taken.insert(part.of);
      }
    }
    const FsdpCoordinates at{.shard = mesh.Degree("shard"),
                             .shard_rank = mesh.Coordinate(rank, "shard"),
                             .tp = mesh.Degree("tp"),
                             .tp_rank = mesh.Coordinate(rank, "tp")};
    for (const LogicalTensor& logical : expected) {
      if (taken.contains(logical.spec.name)) continue;
      WEFT_ASSIGN_OR_RETURN(const tensor::Box box,
                            FsdpBox(logical.spec.shape, logical.tp, at));
      WEFT_RETURN_IF_ERROR(builder.AddBox(logical.spec.name, box));
    }
    for (const StoredDescription& description : in_memory) {
      WEFT_RETURN_IF_ERROR(
          builder.AddChunk(description, at.shard, at.shard_rank));
    }
    return absl::OkStatus();
  }

  RecipeTables tables_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Recipe>> ParseRecipeWithIncludes(
    std::string_view yaml_text, std::string_view file_name,
    const IncludeReader& include) {
  WEFT_ASSIGN_OR_RETURN(RecipeTables tables,
                        ParseRecipeTables(yaml_text, file_name, include));
  return std::make_shared<DataRecipe>(std::move(tables));
}

absl::StatusOr<std::shared_ptr<const Recipe>> ParseRecipe(
    std::string_view yaml_text, std::string_view file_name) {
  return ParseRecipeWithIncludes(yaml_text, file_name, ReadEmbeddedRecipe);
}

}  // namespace weft::recipe
