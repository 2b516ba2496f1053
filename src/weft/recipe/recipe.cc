#include "weft/recipe/recipe.h"

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/recipe/checkpoint_tensors.h"
#include "weft/recipe/data_recipe.h"
#include "weft/recipe/embedded_recipes.h"
#include "weft/recipe/framework_mesh.h"
#include "weft/recipe/fsdp_layout.h"
#include "weft/recipe/quant_choice.h"
#include "weft/recipe/recipe_parser.h"
#include "weft/recipe/rule_memo.h"
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

class DataRecipe : public Recipe {
 public:
  explicit DataRecipe(RecipeTables tables)
      : tables_(std::move(tables)), checkpoints_(tables_) {}

  const std::string& family() const override { return tables_.family; }
  const std::vector<std::string>& architectures() const override {
    return tables_.architectures;
  }

  absl::StatusOr<std::vector<tensor::TensorSpec>> LogicalTensors(
      const ModelConfig& config) const override {
    return LogicalTensorsOf(config, {});
  }

  absl::StatusOr<std::vector<tensor::TensorSpec>> LogicalTensorsOf(
      const ModelConfig& config,
      const std::vector<std::string>& held) const override {
    const TensorNames names(held.begin(), held.end());
    WEFT_ASSIGN_OR_RETURN(const Environment environment,
                          checkpoints_.Bind(config, names));
    WEFT_ASSIGN_OR_RETURN(
        std::vector<LogicalTensor> logical,
        checkpoints_.Expected(environment, config.dtype, names));
    std::vector<tensor::TensorSpec> specs;
    specs.reserve(logical.size());
    for (LogicalTensor& one : logical) specs.push_back(std::move(one.spec));
    return specs;
  }

  absl::StatusOr<bool> IsIgnorable(const ModelConfig& config,
                                   const std::string& name) const override {
    WEFT_ASSIGN_OR_RETURN(const Environment environment,
                          checkpoints_.Bind(config, {}));
    WEFT_ASSIGN_OR_RETURN(const std::vector<std::string> ignored,
                          checkpoints_.Ignored(environment));
    for (const std::string& one : ignored) {
      if (IsIgnoredBy(one, name)) return true;
    }
    return false;
  }

  absl::StatusOr<int64_t> NumRanks(const ModelConfig& config,
                                   const LayoutSpec& spec) const override {
    WEFT_RETURN_IF_ERROR(checkpoints_.Bind(config, {}).status());
    WEFT_RETURN_IF_ERROR(TableOf(spec).status());
    WEFT_ASSIGN_OR_RETURN(const layout::Mesh mesh, MeshOf(spec));
    return mesh.num_ranks();
  }

  absl::StatusOr<RankLayout> Layout(
      const ModelConfig& config, const LayoutSpec& spec, int64_t rank,
      const std::vector<tensor::TensorSpec>& logical) const override {
    // What needs no checkpoint first.
    WEFT_RETURN_IF_ERROR(TableOf(spec).status());
    WEFT_ASSIGN_OR_RETURN(const layout::Mesh mesh, MeshOf(spec));
    WEFT_RETURN_IF_ERROR(CheckRank(spec, mesh, rank));
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint,
                          checkpoints_.Find(config, logical));
    return LayoutOf(checkpoint, spec, mesh, rank, nullptr);
  }

  absl::StatusOr<std::vector<RankLayout>> Layouts(
      const ModelConfig& config, const LayoutSpec& spec,
      const std::vector<tensor::TensorSpec>& logical) const override {
    WEFT_RETURN_IF_ERROR(TableOf(spec).status());
    WEFT_ASSIGN_OR_RETURN(const layout::Mesh mesh, MeshOf(spec));
    WEFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint,
                          checkpoints_.Find(config, logical));
    std::vector<RankLayout> layouts;
    layouts.reserve(mesh.num_ranks());
    RuleMemo memo;
    for (int64_t rank = 0; rank < mesh.num_ranks(); ++rank) {
      WEFT_ASSIGN_OR_RETURN(RankLayout layout,
                            LayoutOf(checkpoint, spec, mesh, rank, &memo));
      layouts.push_back(std::move(layout));
    }
    return layouts;
  }

 private:
  absl::StatusOr<RankLayout> LayoutOf(
      const std::shared_ptr<const Checkpoint>& checkpoint,
      const LayoutSpec& spec, const layout::Mesh& mesh, int64_t rank,
      RuleMemo* memo) const {
    WEFT_ASSIGN_OR_RETURN(const FrameworkTable* const table, TableOf(spec));
    // The spec's faults before the checkpoint's: they need no file.
    WEFT_ASSIGN_OR_RETURN(const std::optional<QuantChoice> quant,
                          QuantOf(spec));
    ExpandedTensors tensors;
    if (table != nullptr) {
      WEFT_ASSIGN_OR_RETURN(tensors, Describe(*table, checkpoint->environment,
                                              spec, mesh, rank, memo));
    } else {
      WEFT_RETURN_IF_ERROR(CheckGrids(spec, mesh));
    }
    WEFT_RETURN_IF_ERROR(checkpoint->matched);
    const bool is_engine = spec.framework == Framework::kVllm ||
                           spec.framework == Framework::kSglang;
    StoredBuilder builder(checkpoint->index,
                          {.dtype = ChosenDType(spec),
                           .dtype_of_zeros = checkpoint->config.dtype,
                           .quant = is_engine ? quant : std::nullopt,
                           .offer_quant = is_engine ? std::nullopt : quant});
    for (const std::shared_ptr<ExpandedTensor>& tensor : tensors) {
      WEFT_RETURN_IF_ERROR(builder.AddDescribed(*tensor));
    }
    if (table == nullptr) {
      WEFT_RETURN_IF_ERROR(
          AddBoxes(checkpoint, spec, mesh, rank, memo, builder));
    }
    RankLayout result;
    result.layout_spec = spec.ToString();
    result.rank = rank;
    result.num_ranks = mesh.num_ranks();
    WEFT_RETURN_IF_ERROR(builder.Finish(result));
    return result;
  }

  // nullptr for the frameworks that hold the checkpoint's own tensors.
  absl::StatusOr<const FrameworkTable*> TableOf(const LayoutSpec& spec) const {
    const std::optional<FrameworkTable>* table = nullptr;
    switch (spec.framework) {
      case Framework::kHf:
      case Framework::kFsdp:
        return nullptr;
      case Framework::kMegatron:
        table = &tables_.megatron;
        break;
      case Framework::kVllm:
        table = &tables_.vllm;
        break;
      case Framework::kSglang:
        table = &tables_.sglang;
        break;
    }
    if (*table) return &**table;
    return absl::UnimplementedError(absl::StrCat(
        "recipe ", tables_.file, " has no table for ", spec.ToString()));
  }

  absl::StatusOr<ExpandedTensors> Describe(const FrameworkTable& table,
                                           const Environment& config,
                                           const LayoutSpec& spec,
                                           const layout::Mesh& mesh,
                                           int64_t rank, RuleMemo* memo) const {
    WEFT_ASSIGN_OR_RETURN(const int64_t num_layers,
                          tables_.layers.Evaluate(config));
    const absl::StatusOr<std::vector<StageChunk>> chunks =
        ChunksOf(spec, mesh, rank, num_layers);
    const ExpertPlacement experts = PlacementOf(spec, mesh, rank);
    const auto environment_of = [&](const StageChunk& chunk) {
      Environment environment = config;
      environment.experts = &experts;
      const std::vector<int64_t> values =
          FrameworkSymbolValues(spec, mesh, rank, chunk);
      environment.values.insert(environment.values.end(), values.begin(),
                                values.end());
      return environment;
    };
    base::FaultList faults;
    WEFT_RETURN_IF_ERROR(CheckRequirements(
        table.requirements,
        environment_of(chunks.ok() ? chunks->front() : StageChunk{}), faults));
    if (!chunks.ok()) faults.Add(std::string(chunks.status().message()));
    if (const absl::Status status = CheckGrids(spec, mesh); !status.ok()) {
      faults.Add(std::string(status.message()));
    }
    if (const absl::Status status =
            faults.ToStatus(absl::StatusCode::kInvalidArgument);
        !status.ok()) {
      return base::Annotate(status, spec.ToString());
    }
    ExpandedTensors all;
    for (std::size_t c = 0; c < chunks->size(); ++c) {
      Environment environment = environment_of((*chunks)[c]);
      WEFT_RETURN_IF_ERROR(EvaluateLets(table.lets, environment));
      // As torch names the members of a list of model chunks.
      const std::string prefix =
          chunks->size() > 1 ? absl::StrCat("model", c, ".") : "";
      WEFT_ASSIGN_OR_RETURN(
          const ExpandedTensors stored,
          ExpandStored(table.tensors, environment, nullptr, prefix, memo));
      all.insert(all.end(), stored.begin(), stored.end());
    }
    return all;
  }

  // Of what fsdp holds under other names than the file's: this rank's entries
  // of the stacks, the rest whole.
  absl::StatusOr<ExpandedTensors> InMemory(const Environment& config,
                                           const LayoutSpec& spec,
                                           const layout::Mesh& mesh,
                                           int64_t rank,
                                           const FsdpCoordinates& at,
                                           RuleMemo* memo) const {
    Environment environment = config;
    const std::vector<int64_t> values =
        FrameworkSymbolValues(spec, mesh, rank, {});
    environment.values.insert(environment.values.end(), values.begin(),
                              values.end());
    base::FaultList faults;
    WEFT_RETURN_IF_ERROR(
        CheckRequirements(tables_.memory_requirements, environment, faults));
    if (const absl::Status status =
            faults.ToStatus(absl::StatusCode::kInvalidArgument);
        !status.ok()) {
      return base::Annotate(status, spec.ToString());
    }
    const auto share = [&](int64_t num_entries) {
      return FsdpExperts(num_entries, at);
    };
    return ExpandStored(tables_.memory, environment, share, "", memo);
  }

  // What fsdp holds a tensor in where that is not what files do: a buffer stays
  // whole in its own dtype, a parameter has that of the others.
  static std::optional<tensor::DType> FsdpDType(const Checkpoint& checkpoint,
                                                const LogicalTensor& logical,
                                                const LayoutSpec& spec) {
    if (spec.framework != Framework::kFsdp || checkpoint.index.is_quantised) {
      return std::nullopt;
    }
    if (!logical.shard) return logical.spec.dtype;
    return ChosenDType(spec);
  }

  // The tensor that `description` is whole and unchanged, under a name of its
  // own, by number; nullopt if it is something else.
  static std::optional<int32_t> RenamedBy(const StoredDescription& description,
                                          const Checkpoint& checkpoint) {
    if (description.is_stack || description.entries[0].size() != 1) {
      return std::nullopt;
    }
    const StoredPart& part = description.entries[0][0];
    const auto found = checkpoint.index.by_name.find(part.of);
    const bool is_whole = !part.rows && !part.columns && !part.index &&
                          !part.transpose && part.ways == 1 &&
                          !description.dtype;
    if (!is_whole || found == checkpoint.index.by_name.end()) {
      return std::nullopt;
    }
    return found->second;
  }

  // kUnimplemented if tensor parallelism cuts what memory is made of but the
  // table of memory does not say how.
  absl::Status CheckCut(const Checkpoint& checkpoint,
                        const ExpandedTensors& in_memory,
                        const LayoutSpec& spec) const {
    for (const std::shared_ptr<ExpandedTensor>& tensor : in_memory) {
      const StoredDescription& description = tensor->description;
      if (RenamedBy(description, checkpoint)) continue;
      for (const std::vector<StoredPart>& entry : description.entries) {
        for (const StoredPart& part : entry) {
          const auto found = checkpoint.index.by_name.find(part.of);
          if (found == checkpoint.index.by_name.end()) continue;
          const TpCut cut = checkpoint.expected[found->second].tp;
          const bool is_cut = cut == TpCut::kNone ||
                              (cut == TpCut::kRows ? part.rows.has_value()
                                                   : part.columns.has_value());
          if (is_cut) continue;
          return absl::UnimplementedError(
              absl::StrCat(spec.ToString(), ": tp=", spec.Number("tp", 1),
                           " with names=memory is not supported for ",
                           tables_.family, ", whose \"", description.name,
                           "\" is fused in memory; give names=hf or tp=1"));
        }
      }
    }
    return absl::OkStatus();
  }

  // Every tensor of the checkpoint under its own name, whole for hf, the
  // rank's box for fsdp (an empty one too), but for those that memory holds in
  // another form.
  absl::Status AddBoxes(const std::shared_ptr<const Checkpoint>& found,
                        const LayoutSpec& spec, const layout::Mesh& mesh,
                        int64_t rank, RuleMemo* memo,
                        StoredBuilder& builder) const {
    const Checkpoint& checkpoint = *found;
    const FsdpCoordinates at{.shard = mesh.Degree("shard"),
                             .shard_rank = mesh.Coordinate(rank, "shard"),
                             .tp = mesh.Degree("tp"),
                             .tp_rank = mesh.Coordinate(rank, "tp"),
                             .ep = spec.Number("ep", 1)};
    const bool as_loaded = spec.framework == Framework::kFsdp &&
                           spec.Word("names", "memory") == "memory";
    const bool has_memory = as_loaded && (!tables_.memory.empty() ||
                                          !tables_.memory_requirements.empty());
    ExpandedTensors in_memory;
    if (has_memory) {
      WEFT_ASSIGN_OR_RETURN(in_memory, InMemory(checkpoint.environment, spec,
                                                mesh, rank, at, memo));
      if (at.tp > 1) {
        WEFT_RETURN_IF_ERROR(CheckCut(checkpoint, in_memory, spec));
      }
    }
    // Whole for hf, the rank's part for fsdp.
    const auto add = [&](int32_t tensor, const std::string& name,
                         std::string_view where) -> absl::Status {
      // The index has what is expected, in that order.
      const LogicalTensor& logical = checkpoint.expected[tensor];
      WEFT_ASSIGN_OR_RETURN(const tensor::Box box,
                            logical.shard
                                ? FsdpBox(logical.spec.shape, logical.tp, at)
                                : tensor::Box::OfShape(logical.spec.shape));
      return builder.AddBox(tensor, box, name, where,
                            FsdpDType(checkpoint, logical, spec));
    };
    const auto add_same = [&](int32_t tensor) {
      const LogicalTensor& logical = checkpoint.expected[tensor];
      return add(tensor, logical.spec.name, logical.where);
    };
    if (as_loaded) {
      WEFT_ASSIGN_OR_RETURN(
          const std::shared_ptr<const std::vector<int32_t>> as_in_file,
          checkpoints_.AsInFile(found));
      for (const int32_t tensor : *as_in_file) {
        WEFT_RETURN_IF_ERROR(add_same(tensor));
      }
    } else {
      const auto all = static_cast<int32_t>(checkpoint.expected.size());
      for (int32_t tensor = 0; tensor < all; ++tensor) {
        WEFT_RETURN_IF_ERROR(add_same(tensor));
      }
    }
    for (const std::shared_ptr<ExpandedTensor>& tensor : in_memory) {
      const StoredDescription& description = tensor->description;
      if (const auto same = RenamedBy(description, checkpoint)) {
        WEFT_RETURN_IF_ERROR(add(*same, description.name, description.where));
        continue;
      }
      WEFT_RETURN_IF_ERROR(
          description.is_stack
              ? builder.AddDescribed(*tensor)
              : builder.AddChunk(*tensor, at.shard, at.shard_rank));
    }
    return absl::OkStatus();
  }

  RecipeTables tables_;
  CheckpointCache checkpoints_;  // refers to tables_
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
