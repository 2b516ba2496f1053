// weft verify: compares every byte of a rank's file with the plain cut of the
// checkpoint, and names whatever is missing, extra or different.
#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "load_model.h"
#include "option_checks.h"
#include "plain_cut.h"
#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/recipe/layout_spec.h"

namespace weft::apps {
namespace {

// One tensor that is not as it must be.
struct Difference {
  std::string tensor;
  std::string kind;  // missing, extra, dtype, shape, bytes
  std::string detail;
  int64_t elements = 0;  // of kind bytes
  std::string first_origin;
};

struct Comparison {
  recipe::RankLayout held;
  int64_t bytes_compared = 0;
  std::vector<Difference> differences;
};

std::string Hex(absl::Span<const std::byte> item) {
  std::string text = "0x";
  for (std::size_t i = item.size(); i-- > 0;) {  // little endian
    absl::StrAppend(
        &text, absl::Hex(std::to_integer<uint32_t>(item[i]), absl::kZeroPad2));
  }
  return text;
}

// Appends a difference unless the bytes are equal.
void CompareBytes(const recipe::RankLayout& held,
                  const layout::StoredTensor& stored,
                  absl::Span<const std::byte> expected,
                  absl::Span<const std::byte> found,
                  std::vector<Difference>& differences) {
  if (expected == found) return;
  const std::size_t item_bytes =
      static_cast<std::size_t>(tensor::ItemBytes(stored.dtype));
  Difference difference{stored.name, "bytes", "", 0, ""};
  for (std::size_t at = 0; at < expected.size(); at += item_bytes) {
    const auto want = expected.subspan(at, item_bytes);
    const auto have = found.subspan(at, item_bytes);
    if (want == have) continue;
    if (++difference.elements > 1) continue;
    const int64_t index = static_cast<int64_t>(at / item_bytes);
    difference.first_origin = OriginOf(stored, held.tensors, index);
    difference.detail =
        absl::StrCat("element ", index, " (", difference.first_origin, ") is ",
                     Hex(have), " and must be ", Hex(want));
  }
  const std::size_t elements = expected.size() / item_bytes;
  difference.detail =
      absl::StrCat(difference.elements, " of ", elements,
                   " elements differ; the first: ", difference.detail);
  differences.push_back(std::move(difference));
}

absl::Status CompareTensor(const VerifyArgs& args, const LoadedModel& model,
                           const layout::StoredTensor& stored,
                           const checkpoint::Checkpoint& file,
                           Comparison& comparison) {
  const absl::StatusOr<tensor::TensorSpec> found = file.Spec(stored.name);
  const auto add = [&](const char* kind, std::string detail) {
    comparison.differences.push_back(
        {stored.name, kind, std::move(detail), 0, ""});
  };
  if (!found.ok()) {
    add("missing", absl::StrCat("no tensor of shape ",
                                tensor::ShapeToString(stored.shape)));
  } else if (found->dtype != stored.dtype) {
    add("dtype",
        absl::StrCat("dtype is ", std::string(tensor::DTypeName(found->dtype)),
                     " and must be ",
                     std::string(tensor::DTypeName(stored.dtype))));
  } else if (found->shape != stored.shape) {
    add("shape",
        absl::StrCat("shape is ", tensor::ShapeToString(found->shape),
                     " and must be ", tensor::ShapeToString(stored.shape)));
  } else {
    WEFT_ASSIGN_OR_RETURN(
        const std::vector<std::byte> expected,
        CutStored(stored, comparison.held.tensors, comparison.held.scaled,
                  model.checkpoint, args.step));
    WEFT_ASSIGN_OR_RETURN(const absl::Span<const std::byte> data,
                          file.Data(stored.name));
    comparison.bytes_compared += static_cast<int64_t>(expected.size());
    CompareBytes(comparison.held, stored, expected, data,
                 comparison.differences);
  }
  return absl::OkStatus();
}

absl::StatusOr<Comparison> Compare(const VerifyArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec spec,
                        recipe::ParseLayoutSpec(args.layout));
  WEFT_ASSIGN_OR_RETURN(const checkpoint::Checkpoint file,
                        checkpoint::Checkpoint::Open(args.file));
  WEFT_ASSIGN_OR_RETURN(
      const LoadedModel model,
      LoadModel(args.checkpoint, args.recipes,
                ParseMxfp4Reading(args.mxfp4, Mxfp4Reading::kPlainly)));
  Comparison comparison;
  WEFT_ASSIGN_OR_RETURN(
      comparison.held,
      model.recipe->Layout(model.config, spec, args.rank, model.logical));
  std::set<std::string> wanted;
  for (const layout::StoredTensor& stored : comparison.held.stored) {
    wanted.insert(stored.name);
    WEFT_RETURN_IF_ERROR(CompareTensor(args, model, stored, file, comparison));
  }
  for (const tensor::TensorSpec& held : file.tensors()) {
    if (wanted.contains(held.name)) continue;
    comparison.differences.push_back(
        {held.name, "extra", "rank holds no tensor of this name", 0, ""});
  }
  return comparison;
}

void Print(const VerifyArgs& args, const Comparison& comparison) {
  if (args.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const Difference& difference : comparison.differences) {
      list.push_back({{"tensor", difference.tensor},
                      {"kind", difference.kind},
                      {"detail", difference.detail},
                      {"elements", difference.elements},
                      {"first_origin", difference.first_origin}});
    }
    PrintLine(nlohmann::json({{"file", args.file},
                              {"layout", comparison.held.layout_spec},
                              {"rank", comparison.held.rank},
                              {"step", args.step},
                              {"tensors", comparison.held.stored.size()},
                              {"bytes_compared", comparison.bytes_compared},
                              {"equal", comparison.differences.empty()},
                              {"differences", std::move(list)}})
                  .dump());
    return;
  }
  for (const Difference& difference : comparison.differences) {
    PrintLine(absl::StrCat(difference.kind, "  ", difference.tensor, ": ",
                           difference.detail));
  }
  if (comparison.differences.empty()) {
    PrintLine(absl::StrCat(args.file, " is equal, byte for byte, to rank ",
                           comparison.held.rank, " of ",
                           comparison.held.layout_spec, ": ",
                           comparison.held.stored.size(), " tensors, ",
                           HumanBytes(comparison.bytes_compared)));
  }
}

}  // namespace

int RunVerify(const VerifyArgs& args) {
  const absl::StatusOr<Comparison> comparison = Compare(args);
  if (!comparison.ok()) return Fail("verify", comparison.status(), args.json);
  Print(args, *comparison);
  if (comparison->differences.empty()) return 0;
  const Difference& first = comparison->differences.front();
  // The JSON object says it already.
  return Fail(
      "verify",
      absl::DataLossError(absl::StrCat(
          args.file, " is not rank ", comparison->held.rank, " of ",
          comparison->held.layout_spec, ": ", comparison->differences.size(),
          " tensors are missing, extra or different, the first is \"",
          first.tensor, "\": ", first.detail)));
}

void AddVerify(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<VerifyArgs>();
  CLI::App* command = app.add_subcommand(
      "verify", "Compare every byte of a rank's file with a checkpoint");
  command->footer(
      "example: weft verify rank0.safetensors --checkpoint build/smollm2 "
      "--layout vllm:tp=3 --rank 0");
  command->add_option("file", args->file, "safetensors file of one rank")
      ->required();
  command
      ->add_option("--checkpoint", args->checkpoint,
                   "directory with config.json and safetensors")
      ->required();
  command
      ->add_option("--layout", args->layout,
                   "hf, fsdp:..., megatron:... or vllm:...")
      ->required();
  command->add_option("--rank", args->rank, "rank within the layout")
      ->required()
      ->check(NotBelowZero());
  command
      ->add_option("--step", args->step,
                   "expect the weights after this many stand-in steps")
      ->check(NotBelowZero())
      ->capture_default_str();
  AddMxfp4Option(*command, args->mxfp4);
  command->add_option("--recipes", args->recipes,
                      "file or folder of further recipes");
  command->add_flag("--json", args->json, "print one JSON object");
  command->callback([args, exit_code] { *exit_code = RunVerify(*args); });
}

}  // namespace weft::apps
