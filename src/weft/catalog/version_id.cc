#include <algorithm>
#include <charconv>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/store.h"

namespace weft::catalog {
namespace {

bool IsNameCharacter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
         (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '/' || c == '-';
}

absl::StatusOr<uint64_t> ParseNumber(std::string_view what,
                                     std::string_view digits,
                                     std::string_view text) {
  uint64_t number = 0;
  const char* end = digits.data() + digits.size();
  const auto parsed = std::from_chars(digits.data(), end, number);
  if (parsed.ec == std::errc() && parsed.ptr == end) return number;
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(what), " \"", CleanReason(digits), "\" of version \"",
      CleanReason(text), "\" is not an unsigned 64-bit number"));
}

}  // namespace

std::string ToString(const VersionId& version) {
  return absl::StrCat(version.run_id, ":", version.epoch, ":", version.step);
}

absl::StatusOr<VersionId> ParseVersionId(std::string_view text) {
  if (std::count(text.begin(), text.end(), ':') != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("version \"", CleanReason(text),
                     "\" is not of the form RUN:EPOCH:STEP, as in train:0:17"));
  }
  const size_t first = text.find(':');
  const size_t second = text.find(':', first + 1);
  VersionId version;
  version.run_id = std::string(text.substr(0, first));
  WEFT_RETURN_IF_ERROR(CheckName("run id", version.run_id));
  WEFT_ASSIGN_OR_RETURN(
      version.epoch,
      ParseNumber("epoch", text.substr(first + 1, second - first - 1), text));
  WEFT_ASSIGN_OR_RETURN(version.step,
                        ParseNumber("step", text.substr(second + 1), text));
  return version;
}

absl::Status CheckName(std::string_view what, std::string_view name) {
  if (name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(what), " is empty"));
  }
  if (static_cast<int64_t>(name.size()) > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        std::string(what), " \"", CleanReason(name.substr(0, 32)), "...\" has ",
        name.size(), " characters, at most ", kMaxNameBytes, " are allowed"));
  }
  if (!std::all_of(name.begin(), name.end(), IsNameCharacter)) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(what), " \"", CleanReason(name),
                     "\" has a character outside [A-Za-z0-9._/-]"));
  }
  return absl::OkStatus();
}

std::string_view ToString(VersionState state) {
  switch (state) {
    case VersionState::kStaging:
      return "STAGING";
    case VersionState::kReady:
      return "READY";
    case VersionState::kRetiring:
      return "RETIRING";
    case VersionState::kGone:
      return "GONE";
  }
  return "unknown";
}

std::string_view ToString(Role role) {
  switch (role) {
    case Role::kPublisher:
      return "publisher";
    case Role::kReceiver:
      return "receiver";
    case Role::kCopy:
      return "copy";
  }
  return "unknown";
}

bool IsNewer(const VersionId& version, const VersionId& than) {
  if (version.run_id != than.run_id) return true;
  return std::pair(version.epoch, version.step) >
         std::pair(than.epoch, than.step);
}

}  // namespace weft::catalog
