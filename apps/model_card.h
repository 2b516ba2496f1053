// The model card: what a receiver must know of a model to lay it out, sent
// through the catalog by the publishers: config.json and the checkpoint's
// tensors with their real dtypes. JSON, documented in docs/formats/manifest.md.
#ifndef WEFT_APPS_MODEL_CARD_H_
#define WEFT_APPS_MODEL_CARD_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::apps {

struct ModelCard {
  std::string config_json;
  std::vector<tensor::TensorSpec> tensors;
};

std::string EncodeModelCard(const ModelCard& card);
// kDataLoss on malformed input.
absl::StatusOr<ModelCard> DecodeModelCard(std::string_view bytes);

}  // namespace weft::apps

#endif  // WEFT_APPS_MODEL_CARD_H_
