#include "weft/recipe/checkpoint_tensors.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/recipe/framework_mesh.h"
#include "weft/recipe/quant_choice.h"
#include "weft/tensor/scale_scheme.h"

namespace weft::recipe {
namespace {

// The scales beside a matrix of a quantised checkpoint.
absl::StatusOr<LogicalTensor> ScalesOf(const LogicalTensor& matrix) {
  LogicalTensor scales;
  scales.spec.name =
      absl::StrCat(matrix.spec.name, std::string(kBlockScaleSuffix));
  scales.spec.dtype = tensor::DType::kF32;
  WEFT_ASSIGN_OR_RETURN(
      scales.spec.shape,
      tensor::ScaleShape(tensor::ScaleScheme{}, matrix.spec.shape));
  scales.dtype_pinned = true;
  scales.where = matrix.where;
  return scales;
}

}  // namespace

bool IsIgnoredBy(std::string_view pattern, std::string_view name) {
  if (!pattern.empty() && pattern.back() == '*') {
    pattern.remove_suffix(1);
    return name.substr(0, pattern.size()) == pattern;
  }
  return name == pattern;
}

absl::StatusOr<Environment> CheckpointCache::Bind(
    const ModelConfig& config, const TensorNames& held) const {
  WEFT_ASSIGN_OR_RETURN(Environment environment,
                        BindConfig(tables_, config, held));
  base::FaultList faults;
  WEFT_RETURN_IF_ERROR(
      CheckRequirements(tables_.requirements, environment, faults));
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  return environment;
}

absl::StatusOr<std::vector<std::string>> CheckpointCache::Ignored(
    const Environment& environment) const {
  WEFT_ASSIGN_OR_RETURN(
      std::vector<LogicalTensor> ignored,
      ExpandLogical(tables_.ignore, environment, tensor::DType::kBF16));
  std::vector<std::string> names;
  names.reserve(ignored.size());
  for (LogicalTensor& one : ignored) names.push_back(std::move(one.spec.name));
  return names;
}

absl::StatusOr<std::vector<LogicalTensor>> CheckpointCache::Expected(
    const Environment& environment, tensor::DType dtype,
    const TensorNames& held) const {
  WEFT_ASSIGN_OR_RETURN(std::vector<LogicalTensor> listed,
                        ExpandLogical(tables_.checkpoint, environment, dtype));
  std::vector<LogicalTensor> expected;
  expected.reserve(listed.size());
  for (LogicalTensor& one : listed) {
    const bool has_scales =
        one.quant && held.contains(absl::StrCat(
                         one.spec.name, std::string(kBlockScaleSuffix)));
    if (has_scales) one.spec.dtype = tensor::DType::kF8E4M3;
    expected.push_back(std::move(one));
    if (!has_scales) continue;
    WEFT_ASSIGN_OR_RETURN(LogicalTensor scales, ScalesOf(expected.back()));
    expected.push_back(std::move(scales));
  }
  return expected;
}

absl::StatusOr<std::shared_ptr<const Checkpoint>> CheckpointCache::Find(
    const ModelConfig& config,
    const std::vector<tensor::TensorSpec>& given) const {
  {
    const std::lock_guard lock(mutex_);
    if (last_ != nullptr && last_->config == config && last_->given == given) {
      return last_;
    }
  }
  TensorNames held;
  held.reserve(given.size());
  for (const tensor::TensorSpec& spec : given) held.insert(spec.name);
  auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->config = config;
  checkpoint->given = given;
  WEFT_ASSIGN_OR_RETURN(checkpoint->environment, Bind(config, held));
  checkpoint->matched = Match(held, *checkpoint);
  const std::lock_guard lock(mutex_);
  last_ = checkpoint;
  return last_;
}

absl::StatusOr<std::shared_ptr<const std::vector<int32_t>>>
CheckpointCache::AsInFile(
    const std::shared_ptr<const Checkpoint>& checkpoint) const {
  const std::lock_guard lock(mutex_);
  if (last_as_in_file_of_ != checkpoint) {
    WEFT_ASSIGN_OR_RETURN(std::vector<int32_t> found,
                          FindAsInFile(*checkpoint));
    last_as_in_file_ =
        std::make_shared<const std::vector<int32_t>>(std::move(found));
    last_as_in_file_of_ = checkpoint;
  }
  return last_as_in_file_;
}

absl::StatusOr<std::vector<int32_t>> CheckpointCache::FindAsInFile(
    const Checkpoint& checkpoint) const {
  // Which tensors are meant does not depend on the rank; one rank has all.
  WEFT_ASSIGN_OR_RETURN(const LayoutSpec spec, ParseLayoutSpec("fsdp"));
  WEFT_ASSIGN_OR_RETURN(const layout::Mesh mesh, MeshOf(spec));
  Environment environment = checkpoint.environment;
  const std::vector<int64_t> values = FrameworkSymbolValues(spec, mesh, 0, {});
  environment.values.insert(environment.values.end(), values.begin(),
                            values.end());
  WEFT_ASSIGN_OR_RETURN(
      const ExpandedTensors held,
      ExpandStored(tables_.memory, environment, nullptr, "", nullptr));
  std::vector<bool> taken(checkpoint.index.specs.size(), false);
  for (const std::shared_ptr<ExpandedTensor>& tensor : held) {
    for (const std::vector<StoredPart>& entry : tensor->description.entries) {
      for (const StoredPart& part : entry) {
        const auto found = checkpoint.index.by_name.find(part.of);
        if (found != checkpoint.index.by_name.end()) {
          taken[found->second] = true;
        }
      }
    }
  }
  std::vector<int32_t> result;
  for (std::size_t i = 0; i < taken.size(); ++i) {
    if (taken[i] || !checkpoint.expected[i].memory) continue;
    result.push_back(static_cast<int32_t>(i));
  }
  return result;
}

// All faults at once: missing, extra, twice, of another shape.
absl::Status CheckpointCache::Match(const TensorNames& held,
                                    Checkpoint& checkpoint) const {
  WEFT_ASSIGN_OR_RETURN(
      checkpoint.expected,
      Expected(checkpoint.environment, checkpoint.config.dtype, held));
  WEFT_ASSIGN_OR_RETURN(const std::vector<std::string> ignored,
                        Ignored(checkpoint.environment));
  base::FaultList faults;
  absl::flat_hash_map<std::string_view, const tensor::TensorSpec*> unmatched;
  unmatched.reserve(checkpoint.given.size());
  for (const tensor::TensorSpec& spec : checkpoint.given) {
    if (!unmatched.emplace(spec.name, &spec).second) {
      faults.Add(
          absl::StrCat("the checkpoint lists \"", spec.name, "\" twice"));
    }
  }
  LogicalIndex& index = checkpoint.index;
  index.specs.reserve(checkpoint.expected.size());
  index.by_name.reserve(checkpoint.expected.size());
  for (const LogicalTensor& want : checkpoint.expected) {
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
    index.by_name.emplace(have.name, static_cast<int32_t>(index.specs.size()));
    index.specs.push_back(have);
    index.dtype_pinned.push_back(want.dtype_pinned);
    index.quant.push_back(want.quant);
    index.is_quantised |= have.dtype == tensor::DType::kF8E4M3;
    unmatched.erase(found);
  }
  std::vector<std::string_view> ignored_groups;
  for (const std::string& name : ignored) {
    unmatched.erase(name);
    if (!name.empty() && name.back() == '*') ignored_groups.push_back(name);
  }
  const auto is_ignored = [&](const std::string& name) {
    return std::any_of(
        ignored_groups.begin(), ignored_groups.end(),
        [&](std::string_view group) { return IsIgnoredBy(group, name); });
  };
  for (const tensor::TensorSpec& spec : checkpoint.given) {
    if (unmatched.contains(spec.name) && !is_ignored(spec.name)) {
      faults.Add(absl::StrCat("the checkpoint has \"", spec.name,
                              "\", which the recipe does not know"));
    }
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace weft::recipe
