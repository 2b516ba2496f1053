#include "placements.h"

#include <nanobind/stl/string.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "raise.h"
#include "weft/base/status.h"

namespace weft::python {
namespace {

namespace nb = nanobind;

std::string Text(nb::handle object, const char* name) {
  return nb::cast<std::string>(object.attr(name));
}

int64_t Int(nb::handle value) { return nb::cast<int64_t>(value); }

tensor::DType DTypeOf(const std::string& owner, nb::handle object) {
  const std::string name = Text(object, "dtype");
  const std::optional<tensor::DType> dtype = tensor::ParseDType(name);
  if (!dtype.has_value()) {
    RaiseIfError(absl::InvalidArgumentError(
        absl::StrCat("\"", owner, "\" has the unknown dtype \"", name,
                     "\"; use the names of safetensors, such as BF16")));
  }
  return *dtype;
}

tensor::Shape ShapeOf(nb::handle object) {
  tensor::Shape shape;
  for (nb::handle extent : object.attr("shape")) shape.push_back(Int(extent));
  return shape;
}

absl::StatusOr<tensor::Box> BoxOf(nb::handle ranges) {
  std::vector<tensor::Range> result;
  for (nb::handle range : ranges) {
    result.push_back({Int(range[0]), Int(range[1])});
  }
  return tensor::Box::Make(result);
}

absl::StatusOr<tensor::Transform> TransformOf(const std::string& word) {
  const std::optional<tensor::Transform> known = tensor::ParseTransform(word);
  if (known.has_value()) return *known;
  return absl::InvalidArgumentError(
      absl::StrCat("unknown transform \"", word,
                   "\"; known are none, neg_exp, plus_one and minus_one"));
}

absl::StatusOr<layout::ScaledTensor> ScaledOf(nb::handle object) {
  layout::ScaledTensor scaled;
  scaled.tensor = nb::cast<int32_t>(object.attr("tensor"));
  scaled.scales = nb::cast<int32_t>(object.attr("scales"));
  scaled.scheme.block_rows = Int(object.attr("block_rows"));
  scaled.scheme.block_cols = Int(object.attr("block_cols"));
  const std::string word = Text(object, "rule");
  const std::optional<tensor::ScaleRule> rule = tensor::ParseScaleRule(word);
  if (!rule.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown rule of scales \"", word,
                     "\"; known are float and power_of_two"));
  }
  scaled.scheme.rule = *rule;
  return scaled;
}

absl::StatusOr<layout::Fragment> FragmentOf(nb::handle object) {
  WEFT_ASSIGN_OR_RETURN(tensor::Box box, BoxOf(object.attr("box")));
  std::vector<layout::DimModes> modes;
  for (nb::handle dim : object.attr("modes")) {
    layout::DimModes& digits = modes.emplace_back();
    for (nb::handle mode : dim) digits.push_back({Int(mode[0]), Int(mode[1])});
  }
  WEFT_ASSIGN_OR_RETURN(layout::IndexMap map,
                        layout::IndexMap::Make(std::move(box), std::move(modes),
                                               Int(object.attr("offset"))));
  WEFT_ASSIGN_OR_RETURN(const tensor::Transform transform,
                        TransformOf(Text(object, "transform")));
  return layout::Fragment{nb::cast<int32_t>(object.attr("tensor")),
                          std::move(map), transform};
}

absl::StatusOr<layout::StoredTensor> StoredOf(nb::handle object) {
  layout::StoredTensor stored;
  stored.name = Text(object, "name");
  stored.dtype = DTypeOf(stored.name, object);
  stored.shape = ShapeOf(object);
  for (nb::handle fragment : object.attr("fragments")) {
    absl::StatusOr<layout::Fragment> made = FragmentOf(fragment);
    WEFT_RETURN_IF_ERROR(base::Annotate(
        made.status(), absl::StrCat("stored tensor \"", stored.name, "\"")));
    stored.fragments.push_back(*std::move(made));
  }
  for (nb::handle ranges : object.attr("zero_fill")) {
    absl::StatusOr<tensor::Box> box = BoxOf(ranges);
    WEFT_RETURN_IF_ERROR(base::Annotate(
        box.status(), absl::StrCat("zero fill of \"", stored.name, "\"")));
    stored.zero_fill.push_back(*std::move(box));
  }
  return stored;
}

nb::tuple PyShape(const tensor::Shape& shape) {
  nb::list list;
  for (const int64_t extent : shape) list.append(extent);
  return nb::tuple(list);
}

nb::tuple PyBox(const tensor::Box& box) {
  nb::list list;
  for (const tensor::Range& range : box.ranges()) {
    list.append(nb::make_tuple(range.begin, range.end));
  }
  return nb::tuple(list);
}

nb::str PyWord(std::string_view word) {
  return nb::str(word.data(), word.size());
}

nb::object PyFragment(const nb::module_& layout, const layout::Fragment& each) {
  nb::list modes;
  for (const layout::DimModes& digits : each.map.modes()) {
    nb::list dim;
    for (const layout::Mode& mode : digits) {
      dim.append(nb::make_tuple(mode.extent, mode.stride));
    }
    modes.append(nb::tuple(dim));
  }
  return layout.attr("Fragment")(each.tensor, PyBox(each.map.box()),
                                 nb::tuple(modes), each.map.offset_elements(),
                                 PyWord(tensor::TransformWord(each.transform)));
}

nb::str PyDType(tensor::DType dtype) {
  return PyWord(tensor::DTypeName(dtype));
}

}  // namespace

manifest::Placement FromPython(nb::handle object) {
  manifest::Placement placement;
  placement.layout_spec = Text(object, "layout_spec");
  placement.rank = Int(object.attr("rank"));
  placement.num_ranks = Int(object.attr("num_ranks"));
  for (nb::handle each : object.attr("tensors")) {
    tensor::TensorSpec spec;
    spec.name = Text(each, "name");
    spec.dtype = DTypeOf(spec.name, each);
    spec.shape = ShapeOf(each);
    placement.tensors.push_back(std::move(spec));
  }
  for (nb::handle each : object.attr("stored")) {
    placement.stored.push_back(ValueOrRaise(StoredOf(each)));
  }
  for (nb::handle each : object.attr("scaled")) {
    placement.scaled.push_back(ValueOrRaise(ScaledOf(each)));
  }
  return placement;
}

nb::object ToPython(const manifest::Placement& placement) {
  const nb::module_ layout = nb::module_::import_("weft.layout");
  nb::object result = layout.attr("Placement")(
      placement.layout_spec, placement.rank, placement.num_ranks);
  for (const tensor::TensorSpec& spec : placement.tensors) {
    result.attr("tensor")(spec.name, PyDType(spec.dtype), PyShape(spec.shape));
  }
  nb::list all;
  for (const layout::StoredTensor& stored : placement.stored) {
    nb::list fragments;
    for (const layout::Fragment& each : stored.fragments) {
      fragments.append(PyFragment(layout, each));
    }
    nb::list zero_fill;
    for (const tensor::Box& box : stored.zero_fill) {
      zero_fill.append(PyBox(box));
    }
    all.append(layout.attr("StoredTensor")(stored.name, PyDType(stored.dtype),
                                           PyShape(stored.shape), fragments,
                                           zero_fill));
  }
  result.attr("stored") = all;
  nb::list scaled;
  for (const layout::ScaledTensor& each : placement.scaled) {
    scaled.append(layout.attr("ScaledTensor")(
        each.tensor, each.scales, each.scheme.block_rows,
        each.scheme.block_cols,
        PyWord(tensor::ScaleRuleWord(each.scheme.rule))));
  }
  result.attr("scaled") = scaled;
  return result;
}

}  // namespace weft::python
