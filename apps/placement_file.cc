#include "placement_file.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/read_file.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

using nlohmann::json;

absl::StatusOr<tensor::DType> DTypeOf(const json& object) {
  const auto name = object.at("dtype").get<std::string>();
  const std::optional<tensor::DType> dtype = tensor::ParseDType(name);
  if (dtype.has_value()) return *dtype;
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown dtype \"", name, "\"; use the names of safetensors"));
}

tensor::Shape ShapeOf(const json& object) {
  tensor::Shape shape;
  for (const json& extent : object.at("shape")) {
    shape.push_back(extent.get<int64_t>());
  }
  return shape;
}

absl::StatusOr<tensor::Box> BoxOf(const json& ranges) {
  std::vector<tensor::Range> result;
  for (const json& range : ranges) {
    result.push_back({range.at(0).get<int64_t>(), range.at(1).get<int64_t>()});
  }
  return tensor::Box::Make(result);
}

absl::StatusOr<layout::Fragment> FragmentOf(const json& object) {
  WEFT_ASSIGN_OR_RETURN(tensor::Box box, BoxOf(object.at("box")));
  std::vector<layout::DimModes> modes;
  for (const json& dim : object.at("modes")) {
    layout::DimModes& digits = modes.emplace_back();
    for (const json& mode : dim) {
      digits.push_back({mode.at(0).get<int64_t>(), mode.at(1).get<int64_t>()});
    }
  }
  WEFT_ASSIGN_OR_RETURN(
      layout::IndexMap map,
      layout::IndexMap::Make(std::move(box), std::move(modes),
                             object.at("offset").get<int64_t>()));
  layout::Fragment fragment{object.at("tensor").get<int32_t>(), std::move(map)};
  const auto word = object.value("transform", std::string("none"));
  const std::optional<tensor::Transform> transform =
      tensor::ParseTransform(word);
  if (!transform.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown transform \"", word, "\""));
  }
  fragment.transform = *transform;
  return fragment;
}

absl::StatusOr<layout::StoredTensor> StoredOf(const json& object) {
  layout::StoredTensor stored;
  stored.name = object.at("name").get<std::string>();
  WEFT_ASSIGN_OR_RETURN(stored.dtype, DTypeOf(object));
  stored.shape = ShapeOf(object);
  for (const json& fragment : object.at("fragments")) {
    WEFT_ASSIGN_OR_RETURN(layout::Fragment made, FragmentOf(fragment));
    stored.fragments.push_back(std::move(made));
  }
  for (const json& ranges : object.at("zero_fill")) {
    WEFT_ASSIGN_OR_RETURN(tensor::Box box, BoxOf(ranges));
    stored.zero_fill.push_back(std::move(box));
  }
  return stored;
}

absl::StatusOr<layout::ScaledTensor> ScaledOf(const json& object) {
  layout::ScaledTensor scaled;
  scaled.tensor = object.at("tensor").get<int32_t>();
  scaled.scales = object.at("scales").get<int32_t>();
  scaled.scheme.block_rows = object.at("block_rows").get<int64_t>();
  scaled.scheme.block_cols = object.at("block_cols").get<int64_t>();
  const auto word = object.at("rule").get<std::string>();
  const std::optional<tensor::ScaleRule> rule = tensor::ParseScaleRule(word);
  if (!rule.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown rule of scales \"", word, "\""));
  }
  scaled.scheme.rule = *rule;
  return scaled;
}

absl::StatusOr<manifest::Placement> PlacementOf(const json& object) {
  manifest::Placement placement;
  placement.layout_spec = object.at("layout_spec").get<std::string>();
  placement.rank = object.at("rank").get<int64_t>();
  placement.num_ranks = object.at("num_ranks").get<int64_t>();
  for (const json& each : object.at("tensors")) {
    tensor::TensorSpec spec;
    spec.name = each.at("name").get<std::string>();
    WEFT_ASSIGN_OR_RETURN(spec.dtype, DTypeOf(each));
    spec.shape = ShapeOf(each);
    placement.tensors.push_back(std::move(spec));
  }
  for (const json& each : object.at("stored")) {
    absl::StatusOr<layout::StoredTensor> stored = StoredOf(each);
    WEFT_RETURN_IF_ERROR(
        base::Annotate(stored.status(),
                       absl::StrCat("stored tensor ", each.value("name", ""))));
    placement.stored.push_back(*std::move(stored));
  }
  for (const json& each : object.value("scaled", json::array())) {
    WEFT_ASSIGN_OR_RETURN(const layout::ScaledTensor scaled, ScaledOf(each));
    placement.scaled.push_back(scaled);
  }
  return placement;
}

}  // namespace

absl::StatusOr<manifest::Placement> ParsePlacementJson(
    const std::string& text) {
  try {
    WEFT_ASSIGN_OR_RETURN(manifest::Placement placement,
                          PlacementOf(json::parse(text)));
    WEFT_RETURN_IF_ERROR(
        manifest::CheckPlacement(placement, /*is_target=*/false));
    return placement;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("not the JSON of a placement: ", error.what()));
  }
}

absl::StatusOr<manifest::Placement> LoadPlacement(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path));
  absl::StatusOr<manifest::Placement> placement = ParsePlacementJson(text);
  WEFT_RETURN_IF_ERROR(base::Annotate(placement.status(), path));
  return placement;
}

}  // namespace weft::apps
