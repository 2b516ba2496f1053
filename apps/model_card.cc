#include "model_card.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weft::apps {

std::string EncodeModelCard(const ModelCard& card) {
  nlohmann::json json;
  json["format"] = 1;
  json["config"] = card.config_json;
  json["tensors"] = nlohmann::json::array();
  for (const tensor::TensorSpec& spec : card.tensors) {
    json["tensors"].push_back(
        {{"name", spec.name},
         {"dtype", std::string(tensor::DTypeName(spec.dtype))},
         {"shape",
          std::vector<int64_t>(spec.shape.begin(), spec.shape.end())}});
  }
  return json.dump();
}

absl::StatusOr<ModelCard> DecodeModelCard(std::string_view bytes) {
  try {
    const nlohmann::json json = nlohmann::json::parse(bytes);
    if (json.at("format").get<int>() != 1) {
      return absl::DataLossError(
          absl::StrCat("model card format ", json.at("format").dump(),
                       " is not known; this release reads format 1"));
    }
    ModelCard card;
    card.config_json = json.at("config").get<std::string>();
    for (const nlohmann::json& each : json.at("tensors")) {
      tensor::TensorSpec spec;
      spec.name = each.at("name").get<std::string>();
      const std::string dtype = each.at("dtype").get<std::string>();
      const std::optional<tensor::DType> known = tensor::ParseDType(dtype);
      if (!known.has_value()) {
        return absl::DataLossError(absl::StrCat("model card: dtype \"", dtype,
                                                "\" of \"", spec.name,
                                                "\" is unknown"));
      }
      spec.dtype = *known;
      for (const nlohmann::json& extent : each.at("shape")) {
        spec.shape.push_back(extent.get<int64_t>());
      }
      card.tensors.push_back(std::move(spec));
    }
    return card;
  } catch (const nlohmann::json::exception& error) {
    return absl::DataLossError(
        absl::StrCat("model card is malformed: ", error.what()));
  }
}

}  // namespace weft::apps
