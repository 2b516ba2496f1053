#include "chaos_events.h"

#include <chrono>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "child_process.h"
#include "weft/base/deadline.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

constexpr std::chrono::seconds kPatience(60);

}  // namespace

absl::StatusOr<std::vector<std::string>> CheckEvents(
    const std::string& program, const std::vector<std::string>& files) {
  std::vector<std::string> words = {program};
  for (const std::string& file : files) {
    if (std::filesystem::exists(file)) words.push_back(file);
  }
  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<ChildProcess> child,
                        ChildProcess::Start(program, words));
  const auto deadline = base::Deadline::After(kPatience);
  std::vector<std::string> lines;
  while (true) {
    absl::StatusOr<std::string> line = child->ReadLine(deadline);
    if (line.ok()) {
      lines.push_back(*std::move(line));
      continue;
    }
    WEFT_ASSIGN_OR_RETURN(const int code, child->Wait(deadline));
    if (code == 0) return std::vector<std::string>();
    if (code == 1 && lines.size() > 1) {
      lines.pop_back();
      return lines;
    }
    return absl::InternalError(absl::StrCat(program, " ends with ", code, ": ",
                                            absl::StrJoin(lines, "\n"),
                                            line.status().message()));
  }
}

}  // namespace weft::apps
