#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "weft/session/unknown_tensors_internal.h"

namespace weft::session {
namespace {

// "a.b" of "a.b.c"; "" of "a".
std::string_view ModuleOf(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? "" : name.substr(0, dot);
}

}  // namespace

UnknownTensors FindUnknownTensors(const std::vector<std::string>& known_tensors,
                                  absl::Span<const ChosenSource> sources) {
  UnknownTensors unknown;
  if (known_tensors.empty()) return unknown;
  absl::flat_hash_set<std::string_view> known;
  absl::flat_hash_set<std::string_view> modules;
  for (const std::string& name : known_tensors) {
    known.insert(name);
    for (std::string_view module = ModuleOf(name); !module.empty();
         module = ModuleOf(module)) {
      modules.insert(module);
    }
  }
  absl::flat_hash_set<std::string_view> published;
  for (const ChosenSource& source : sources) {
    for (const tensor::TensorSpec& tensor :
         source.placement->placement.tensors) {
      published.insert(tensor.name);
      if (known.contains(tensor.name)) continue;
      const bool is_part = modules.contains(ModuleOf(ModuleOf(tensor.name)));
      (is_part ? unknown.parts : unknown.others).insert(tensor.name);
    }
  }
  unknown.published = published.size();
  return unknown;
}

std::string DescribeOthers(const UnknownTensors& unknown) {
  if (unknown.others.empty()) return "";
  return absl::StrCat(
      "the trainer publishes ", unknown.published, " tensors, and ",
      unknown.others.size(), " of them, such as \"", *unknown.others.begin(),
      "\", belong to no module of this model: they are not taken");
}

}  // namespace weft::session
