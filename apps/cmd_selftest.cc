// weft selftest gpu: the tests that need a GPU, on the machine that has one.
#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "child_process.h"
#include "commands.h"
#include "console.h"
#include "weft/base/status.h"
#include "weft/memory/cuda/cuda_driver.h"

namespace weft::apps {
namespace {

namespace fs = std::filesystem;

struct TestList {
  std::vector<fs::path> programs;
};

// A bundle holds the tests beside the program, a build in ../tests.
absl::StatusOr<TestList> FindTests() {
  const fs::path here = fs::path(SelfPath()).parent_path();
  TestList list;
  for (const fs::path& folder : {here, here.parent_path()}) {
    std::ifstream names(folder / "gpu_tests.txt");
    std::string name;
    while (std::getline(names, name)) {
      if (name.empty()) continue;
      fs::path program =
          folder == here ? here / name : here.parent_path() / "tests" / name;
      if (!fs::exists(program)) {
        return absl::NotFoundError(absl::StrCat(
            "the test ", program.string(), " is not built; run make test"));
      }
      list.programs.push_back(std::move(program));
    }
    if (!list.programs.empty()) return list;
  }
  return absl::NotFoundError(
      absl::StrCat("no GPU tests beside ", here.string(),
                   "; make bundle packs them, make test builds them"));
}

absl::Status Selftest() {
  WEFT_ASSIGN_OR_RETURN(const TestList tests, FindTests());
  WEFT_RETURN_IF_ERROR(memory::CudaDriver().status());
  base::FaultList faults;
  for (const fs::path& program : tests.programs) {
    const std::string name = program.filename().string();
    const auto start = std::chrono::steady_clock::now();
    WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<ChildProcess> child,
                          ChildProcess::Start(name, {program.string()}));
    const base::Deadline deadline =
        base::Deadline::After(std::chrono::minutes(5));
    PrintLine(absl::StrCat("running ", name));
    std::string last;
    while (true) {
      const absl::StatusOr<std::string> line = child->ReadLine(deadline);
      if (absl::IsDeadlineExceeded(line.status())) child->Kill(SIGKILL);
      if (!line.ok()) break;
      if (line->find("[  FAILED  ]") == 0 ||
          line->find("Failure") != std::string::npos) {
        PrintLine("  " + *line);
      }
      last = *line;
    }
    WEFT_ASSIGN_OR_RETURN(
        const int code,
        child->Wait(base::Deadline::After(std::chrono::seconds(10))));
    PrintLine(
        absl::StrCat(code == 0 ? "passed  " : "FAILED  ", name, "  ",
                     HumanSeconds(std::chrono::duration<double>(
                                      std::chrono::steady_clock::now() - start)
                                      .count()),
                     "  ", last));
    if (code != 0) faults.Add(absl::StrCat(name, " exits with ", code));
  }
  return faults.ToStatus(absl::StatusCode::kInternal);
}

}  // namespace

void AddSelftest(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("selftest", "Run the tests that need a GPU");
  auto what = std::make_shared<std::string>();
  command->add_option("what", *what, "what to test")
      ->required()
      ->check(CLI::IsMember({"gpu"}));
  command->callback([what, exit_code] {
    const absl::Status status = Selftest();
    *exit_code = status.ok() ? 0 : Fail("selftest", status);
  });
}

}  // namespace weft::apps
