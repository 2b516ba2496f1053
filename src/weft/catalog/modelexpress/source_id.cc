#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/ascii.h"
#include "weft/catalog/modelexpress/source_id_internal.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {

std::string ModelExpressSourceId(
    const ::model_express::p2p::SourceIdentity& identity) {
  using absl::AsciiStrToLower;
  const std::map<std::string, std::string> by_original_key(
      identity.extra_parameters().begin(), identity.extra_parameters().end());
  // Of keys that differ in case alone the first one counts.
  nlohmann::json extra = nlohmann::json::object();
  for (const auto& [key, value] : by_original_key) {
    extra.emplace(AsciiStrToLower(key), AsciiStrToLower(value));
  }
  nlohmann::json fields = {
      {"backend_framework", static_cast<int>(identity.backend_framework())},
      {"dtype", AsciiStrToLower(identity.dtype())},
      {"expert_parallel_size", identity.expert_parallel_size()},
      {"extra_parameters", extra},
      {"model_name", AsciiStrToLower(identity.model_name())},
      {"mx_source_type", static_cast<int>(identity.mx_source_type())},
      {"mx_version", AsciiStrToLower(identity.mx_version())},
      {"pipeline_parallel_size", identity.pipeline_parallel_size()},
      {"quantization", AsciiStrToLower(identity.quantization())},
      {"revision", AsciiStrToLower(identity.revision())},
      {"tensor_parallel_size", identity.tensor_parallel_size()}};
  const auto add_if_set = [&fields](const char* name,
                                    const std::string& value) {
    if (!value.empty()) fields[name] = AsciiStrToLower(value);
  };
  add_if_set("backend_framework_version", identity.backend_framework_version());
  add_if_set("torch_version", identity.torch_version());
  add_if_set("cuda_version", identity.cuda_version());
  add_if_set("triton_version", identity.triton_version());
  add_if_set("gpu_arch", identity.gpu_arch());
  add_if_set("compile_config_digest", identity.compile_config_digest());
  const std::string canonical =
      fields.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return manifest::DigestOf(canonical).ToHex().substr(0, 16);
}

}  // namespace weft::catalog
