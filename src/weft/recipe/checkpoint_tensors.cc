#include "weft/recipe/checkpoint_tensors.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "weft/recipe/framework_mesh.h"

namespace weft::recipe {
namespace {

std::string Described(const tensor::TensorSpec& spec) {
  return absl::StrCat("tensor \"", spec.name, "\" of shape ",
                      tensor::ShapeToString(spec.shape));
}

// Adds what the checkpoint has beside what is expected and what is ignored.
void CheckNothingElse(const Checkpoint& checkpoint,
                      const std::vector<IgnoredTensor>& ignored,
                      base::FaultList& faults) {
  absl::flat_hash_set<std::string_view> known;
  known.reserve(checkpoint.expected.size() + ignored.size());
  for (const LogicalTensor& one : checkpoint.expected) {
    known.insert(one.spec.name);
  }
  std::vector<const IgnoredTensor*> groups;
  for (const IgnoredTensor& one : ignored) {
    known.insert(one.name);
    if (one.name.ends_with('*')) groups.push_back(&one);
  }
  const auto is_in_group = [&](const std::string& name) {
    return std::any_of(
        groups.begin(), groups.end(),
        [&](const IgnoredTensor* group) { return group->Fits(name); });
  };
  std::vector<const tensor::TensorSpec*> unknown;
  for (const tensor::TensorSpec& spec : checkpoint.given) {
    if (!known.contains(spec.name) && !is_in_group(spec.name)) {
      unknown.push_back(&spec);
    }
  }
  TakeOtherScales(unknown, faults);
  for (const tensor::TensorSpec* spec : unknown) {
    faults.Add(absl::StrCat(Described(*spec), " does not belong to the model"));
  }
}

}  // namespace

bool IgnoredTensor::Fits(std::string_view held) const {
  const std::string_view pattern = name;
  if (!pattern.ends_with('*')) return held == pattern;
  return held.starts_with(pattern.substr(0, pattern.size() - 1));
}

TensorNames NamesOf(const std::vector<tensor::TensorSpec>& tensors) {
  TensorNames names;
  names.reserve(tensors.size());
  for (const tensor::TensorSpec& spec : tensors) names.insert(spec.name);
  return names;
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

absl::StatusOr<std::vector<IgnoredTensor>> CheckpointCache::Ignored(
    const Environment& environment) const {
  WEFT_ASSIGN_OR_RETURN(
      std::vector<LogicalTensor> listed,
      ExpandLogical(tables_.ignore, environment, tensor::DType::kBF16));
  std::vector<IgnoredTensor> ignored;
  ignored.reserve(listed.size());
  for (LogicalTensor& one : listed) {
    ignored.push_back({std::move(one.spec.name), std::move(one.copy_of)});
  }
  return ignored;
}

absl::StatusOr<ExpectedTensors> CheckpointCache::Expected(
    const Environment& environment, tensor::DType dtype,
    const std::vector<tensor::TensorSpec>& held,
    base::FaultList& faults) const {
  HeldTensors by_name;
  by_name.reserve(held.size());
  for (const tensor::TensorSpec& spec : held) by_name.emplace(spec.name, &spec);
  WEFT_ASSIGN_OR_RETURN(std::vector<LogicalTensor> listed,
                        ExpandLogical(tables_.checkpoint, environment, dtype));
  ExpectedTensors expected;
  std::vector<LogicalTensor>& tensors = expected.tensors;
  tensors.reserve(listed.size());
  for (LogicalTensor& one : listed) {
    WEFT_ASSIGN_OR_RETURN(std::optional<CheckpointScales> scales,
                          FindScales(one, by_name, faults));
    if (scales) one.spec.dtype = tensor::DType::kF8E4M3;
    tensors.push_back(std::move(one));
    if (!scales) continue;
    const auto matrix = static_cast<int32_t>(tensors.size()) - 1;
    expected.scales.push_back({matrix, matrix + 1, scales->scheme});
    tensors.push_back(std::move(scales->logical));
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
  auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->config = config;
  checkpoint->given = given;
  WEFT_ASSIGN_OR_RETURN(checkpoint->environment, Bind(config, NamesOf(given)));
  checkpoint->matched = Match(*checkpoint);
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

// All faults at once: missing, extra, twice, of another shape, scales that make
// no sense.
absl::Status CheckpointCache::Match(Checkpoint& checkpoint) const {
  base::FaultList faults;
  WEFT_ASSIGN_OR_RETURN(
      ExpectedTensors expected,
      Expected(checkpoint.environment, checkpoint.config.dtype,
               checkpoint.given, faults));
  checkpoint.expected = std::move(expected.tensors);
  WEFT_ASSIGN_OR_RETURN(const std::vector<IgnoredTensor> ignored,
                        Ignored(checkpoint.environment));
  HeldTensors held;
  held.reserve(checkpoint.given.size());
  for (const tensor::TensorSpec& spec : checkpoint.given) {
    if (!held.emplace(spec.name, &spec).second) {
      faults.Add(absl::StrCat(Described(spec), " is listed twice"));
    }
  }
  const auto find = [&held](const LogicalTensor& want) {
    const auto found = held.find(want.spec.name);
    return found == held.end() ? nullptr : found->second;
  };
  LogicalIndex& index = checkpoint.index;
  index.specs.reserve(checkpoint.expected.size());
  index.by_name.reserve(checkpoint.expected.size());
  for (const LogicalTensor& want : checkpoint.expected) {
    const tensor::TensorSpec* const have = find(want);
    if (have == nullptr) {
      faults.Add(absl::StrCat(Described(want.spec), " is missing"));
      continue;
    }
    if (have->shape != want.spec.shape) {
      faults.Add(absl::StrCat("tensor \"", have->name, "\" has the shape ",
                              tensor::ShapeToString(have->shape),
                              ", but the config gives ",
                              tensor::ShapeToString(want.spec.shape)));
    }
    index.by_name.emplace(have->name, static_cast<int32_t>(index.specs.size()));
    index.specs.push_back(*have);
    index.dtype_pinned.push_back(want.dtype_pinned);
    index.quant.push_back(want.quant);
    index.is_quantised |= have->dtype == tensor::DType::kF8E4M3;
  }
  // Without a fault the index has what is expected, in that order.
  for (const ExpectedTensors::Scales& one : expected.scales) {
    CheckScaleDTypes(find(checkpoint.expected[one.matrix]),
                     find(checkpoint.expected[one.scales]), faults);
    index.own_scales.emplace(one.matrix, OwnScales{one.scales, one.scheme});
  }
  CheckNothingElse(checkpoint, ignored, faults);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace weft::recipe
