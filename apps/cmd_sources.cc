// weft sources: what a ModelExpress server knows.
#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "commands.h"
#include "console.h"
#include "endpoints.h"
#include "weft/base/status.h"
#include "weft/catalog/modelexpress/modelexpress_client.h"

namespace weft::apps {
namespace {

struct SourcesArgs {
  std::string modelexpress;
  std::string model;
  bool tensors = false;
  bool json = false;
  double timeout_seconds = 10;
};

uint64_t TotalBytes(const catalog::ModelExpressSource& source) {
  uint64_t bytes = 0;
  for (const auto& tensor : source.tensors) bytes += tensor.bytes;
  return bytes;
}

void PrintJson(const catalog::ModelExpressSource& source, bool tensors) {
  nlohmann::json row = {{"model", source.model},
                        {"source_id", source.source_id},
                        {"worker_id", source.worker_id},
                        {"rank", source.rank},
                        {"status", source.status},
                        {"framework", source.framework},
                        {"transport", source.transport},
                        {"accelerator", source.accelerator},
                        {"updated_at_ms", source.updated_at_ms},
                        {"tensors", source.tensors.size()},
                        {"bytes", TotalBytes(source)},
                        {"note", source.note}};
  if (source.training_step) row["training_step"] = *source.training_step;
  if (tensors) {
    row["tensor_list"] = nlohmann::json::array();
    for (const auto& each : source.tensors) {
      row["tensor_list"].push_back({{"name", each.name},
                                    {"dtype", each.dtype},
                                    {"bytes", each.bytes},
                                    {"device", each.device_id}});
    }
  }
  PrintLine(row.dump());
}

std::string DtypesOf(const catalog::ModelExpressSource& source) {
  std::map<std::string, int64_t> count;
  for (const auto& each : source.tensors) ++count[each.dtype];
  return absl::StrJoin(count, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.second, " ", entry.first);
  });
}

void PrintTables(const std::vector<catalog::ModelExpressSource>& sources,
                 bool tensors) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::vector<std::string>> tensor_rows;
  for (const auto& each : sources) {
    rows.push_back({each.model, each.worker_id, absl::StrCat(each.rank),
                    each.status, each.framework, each.transport, DtypesOf(each),
                    absl::StrCat(TotalBytes(each)), each.note});
    for (const auto& tensor : each.tensors) {
      tensor_rows.push_back({each.worker_id, absl::StrCat(each.rank),
                             tensor.name, tensor.dtype,
                             absl::StrCat(tensor.bytes)});
    }
  }
  PrintLine(FormatTable({"MODEL", "WORKER", "RANK", "STATUS", "FRAMEWORK",
                         "TRANSPORT", "TENSORS", "BYTES", "NOTE"},
                        rows));
  if (tensors) {
    PrintLine(FormatTable({"WORKER", "RANK", "TENSOR", "DTYPE", "BYTES"},
                          tensor_rows));
  }
  if (!sources.empty()) {
    PrintLine(
        "Weft does not read these: their memory is reached through NIXL or "
        "their transfer engine only (docs/modelexpress.md)");
  }
}

absl::Status PrintSources(const SourcesArgs& args) {
  WEFT_ASSIGN_OR_RETURN(const auto sources,
                        catalog::ListModelExpressSources(
                            args.modelexpress, args.model, args.tensors,
                            AfterSeconds(args.timeout_seconds)));
  if (args.json) {
    for (const auto& each : sources) PrintJson(each, args.tensors);
  } else {
    PrintTables(sources, args.tensors);
  }
  return absl::OkStatus();
}

}  // namespace

void AddSources(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<SourcesArgs>();
  CLI::App* command =
      app.add_subcommand("sources", "List what a ModelExpress server knows");
  command->footer("example: weft sources --modelexpress 127.0.0.1:8001");
  command
      ->add_option("--modelexpress", args->modelexpress,
                   "HOST:PORT of a ModelExpress server: of weft catalog "
                   "--modelexpress, or NVIDIA's")
      ->required();
  command->add_option("--model", args->model, "only this model");
  command->add_flag("--tensors", args->tensors,
                    "every tensor; workers that keep their list are asked");
  command->add_option("--timeout", args->timeout_seconds, "seconds to wait")
      ->capture_default_str();
  command->add_flag("--json", args->json, "one JSON object a line");
  command->callback([args, exit_code] {
    const absl::Status status = PrintSources(*args);
    *exit_code = status.ok() ? 0 : Fail("sources", status, args->json);
  });
}

}  // namespace weft::apps
