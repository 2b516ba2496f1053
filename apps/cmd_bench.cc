// weft bench: figures with the bound of the same run beside each.
#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bench_case.h"
#include "bench_job.h"
#include "commands.h"
#include "console.h"

namespace weft::apps {
namespace {

using BenchFunction = absl::Status (*)(const bench::BenchOptions&);

const std::map<std::string, BenchFunction>& Benches() {
  static const auto* const benches = new std::map<std::string, BenchFunction>{
      {"digest", bench::BenchDigest},   {"convert", bench::BenchConvert},
      {"plan", bench::BenchPlan},       {"transport", bench::BenchTransport},
      {"catalog", bench::BenchCatalog}, {"refit", bench::BenchRefit},
      {"gpu", bench::BenchGpu}};
  return *benches;
}

// What --only may name.
const std::map<std::string, std::set<std::string>>& Parts() {
  static const auto* const parts =
      new std::map<std::string, std::set<std::string>>{
          {"gpu", {"refit", "posted", "empty", "shadow", "beside", "programs"}},
          {"catalog", {"control", "ranks", "scale", "redis"}}};
  return *parts;
}

absl::Status CheckPart(const std::string& what, const std::string& part) {
  const auto found = Parts().find(what);
  if (part.empty() ||
      (found != Parts().end() && found->second.contains(part))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--only \"", part, "\" is no part of bench ", what,
      found == Parts().end()
          ? ", which has none"
          : absl::StrCat(", which has ", absl::StrJoin(found->second, ", "))));
}

}  // namespace

void AddBench(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<bench::BenchOptions>();
  auto what = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "bench", "Measure, with the physical bound beside each figure");
  command->footer("example: weft bench refit --json");
  std::vector<std::string> names;
  for (const auto& [name, function] : Benches()) names.push_back(name);
  command->add_option("what", *what, "what to measure")
      ->required()
      ->check(CLI::IsMember(names));
  command
      ->add_option("--transport", options->transport,
                   "for transport and for the posted cases of refit")
      ->capture_default_str()
      ->check(CLI::IsMember({"ucx", "nixl"}));
  command->add_option("--runs", options->runs, "counted runs of each case")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command->add_option("--threads", options->threads, "threads that move bytes")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_option("--bytes", options->bytes, "bytes of the large cases")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1} << 20, int64_t{1} << 36));
  std::string parts = "one part of it";
  for (const auto& [name, names_of_parts] : Parts()) {
    absl::StrAppend(&parts, ". ", name, ": ",
                    absl::StrJoin(names_of_parts, ", "));
  }
  command->add_option("--only", options->only, parts);
  command->add_flag("--json", options->json, "one JSON object a line");
  auto source = std::make_shared<bench::BenchSourceArgs>();
  CLI::App* source_command =
      app.add_subcommand("bench-source", "One source process of a benchmark");
  source_command->group("");  // not listed: only `bench` starts it
  source_command->add_option("--catalog", source->catalog)->required();
  source_command->add_option("--job", source->job)->required();
  source_command->add_option("--bytes", source->bytes)->required();
  source_command->add_option("--rank", source->rank)->required();
  source_command->add_option("--transport", source->transport);
  source_command->add_option("--device", source->device);
  source_command->callback(
      [source, exit_code] { *exit_code = bench::RunBenchSource(*source); });
  command->callback([options, what, exit_code] {
    absl::Status status = CheckPart(*what, options->only);
    if (status.ok()) status = Benches().at(*what)(*options);
    *exit_code = status.ok() ? 0 : Fail("bench", status, false);
  });
}

}  // namespace weft::apps
