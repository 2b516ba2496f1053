// Recipes: tables of what a framework stores for an architecture. A recipe is
// data: one YAML file a family under recipes/, embedded at build time and
// loadable from a path at run time (docs/formats/recipe.md).
#ifndef WEFT_RECIPE_RECIPE_H_
#define WEFT_RECIPE_RECIPE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/layout/scaled_tensor.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/layout_spec.h"
#include "weft/recipe/model_config.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::recipe {

// What one rank holds. The same members as manifest::Placement, which is
// built from it by the session (recipe is below manifest's users).
struct RankLayout {
  std::string layout_spec;
  int64_t rank = 0;
  int64_t num_ranks = 1;
  std::vector<tensor::TensorSpec>
      tensors;  // the logical ones that it refers to
  std::vector<layout::StoredTensor> stored;
  // Matrices that are held in FP8, or (of a trainer's rank) that its publisher
  // is to offer so; by ascending `tensor`.
  std::vector<layout::ScaledTensor> scaled = {};
  // Where each stored tensor comes from: file and line of the rule, by index
  // into `stored`: "include/attention_gqa.yaml:120". Text of the recipe, and
  // valid as long as it lives.
  std::vector<std::string_view> origins = {};
};

class Recipe {
 public:
  virtual ~Recipe() = default;
  virtual const std::string& family() const = 0;  // "qwen3"
  virtual const std::vector<std::string>& architectures() const = 0;

  // Tensors of the checkpoint, in file order of the recipe; dtype is the
  // config's, or what the recipe says that every file has. Without what a file
  // may have or lack (layers for multi-token prediction).
  virtual absl::StatusOr<std::vector<tensor::TensorSpec>> LogicalTensors(
      const ModelConfig& config) const = 0;
  // The same for a checkpoint that has the tensors named `held` (as many as
  // tell what it has): with the optional groups that they belong to, and the
  // scales among them of quantised matrices, which are then F8_E4M3.
  virtual absl::StatusOr<std::vector<tensor::TensorSpec>> LogicalTensorsOf(
      const ModelConfig& config,
      const std::vector<std::string>& held) const = 0;
  // Names that a checkpoint may hold beside LogicalTensors and that are
  // dropped (rotary inv_freq, a redundant tied lm_head).
  virtual absl::StatusOr<bool> IsIgnorable(const ModelConfig& config,
                                           const std::string& name) const = 0;

  virtual absl::StatusOr<int64_t> NumRanks(const ModelConfig& config,
                                           const LayoutSpec& spec) const = 0;

  // What `rank` of `spec` holds. `logical`: the checkpoint's tensors with
  // their real dtypes (stored tensors take them, or the spec's dtype= key).
  // kInvalidArgument with the sentence for a person: "tp=3 does not divide
  // num_attention_heads=16", "rank 8 is not below the 8 ranks of ...".
  virtual absl::StatusOr<RankLayout> Layout(
      const ModelConfig& config, const LayoutSpec& spec, int64_t rank,
      const std::vector<tensor::TensorSpec>& logical) const = 0;
  // The same for all ranks, by rank. Far cheaper than one call a rank where
  // there are many tensors: they are matched once.
  virtual absl::StatusOr<std::vector<RankLayout>> Layouts(
      const ModelConfig& config, const LayoutSpec& spec,
      const std::vector<tensor::TensorSpec>& logical) const = 0;
};

// The embedded recipes and those of `extra_path` (a file or a directory; empty
// for none; later files replace families of the same name).
class RecipeBook {
 public:
  static absl::StatusOr<RecipeBook> Load(const std::string& extra_path);
  // kInvalidArgument that lists the supported architectures if there is none.
  // The recipe lives as long as the book and its copies.
  absl::StatusOr<const Recipe*> Find(std::string_view architecture) const;
  std::vector<std::string> Architectures() const;

 private:
  // Of a file that is parsed when it is first asked for: the embedded ones.
  class Entry;
  std::vector<std::shared_ptr<Entry>> entries_;
};

// Parses one recipe file. kInvalidArgument names line and key.
absl::StatusOr<std::shared_ptr<const Recipe>> ParseRecipe(
    std::string_view yaml_text, std::string_view file_name);

}  // namespace weft::recipe

#endif  // WEFT_RECIPE_RECIPE_H_
