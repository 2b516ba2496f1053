#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/store.h"

namespace weft::catalog {
namespace {

constexpr std::chrono::milliseconds kSlice{200};

std::string Seconds(base::Deadline::Clock::duration elapsed) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g s",
                std::chrono::duration<double>(elapsed).count());
  return text;
}

std::string Describe(const VersionRecord& record) {
  std::string text = absl::StrCat(ToString(record.version), " ",
                                  std::string(ToString(record.state)));
  if (record.state == VersionState::kStaging) {
    absl::StrAppend(&text, " with ", record.ranks_published, " of ",
                    record.ranks_expected, " ranks");
  }
  if (!record.reason.empty()) absl::StrAppend(&text, " (", record.reason, ")");
  if (!record.labels.empty()) {
    absl::StrAppend(&text, " with the labels ", ToString(record.labels));
  }
  return text;
}

// What the watch has told so far, and what the caller waits for.
struct Waiting {
  const std::string& model;
  const VersionId* exact;
  const VersionId* newer_than;
  const Labels& required;
  base::Deadline::Clock::time_point since = base::Deadline::Clock::now();
  std::optional<VersionRecord> newest = std::nullopt;

  bool Matches(const VersionRecord& record) const {
    if (exact != nullptr) return record.version == *exact;
    if (!HasLabels(record.labels, required)) return false;
    return newer_than == nullptr || IsNewer(record.version, *newer_than);
  }

  // A version that is GONE says less than one that may still come.
  void Note(const VersionRecord& record) {
    if (exact != nullptr && record.version != *exact) return;
    const bool says_more = !newest || newest->state == VersionState::kGone ||
                           newest->version == record.version ||
                           (record.state != VersionState::kGone &&
                            IsNewer(record.version, newest->version));
    if (says_more) newest = record;
  }

  absl::Status DeadlinePassed() const {
    const std::string elapsed = Seconds(base::Deadline::Clock::now() - since);
    if (exact != nullptr) {
      return absl::DeadlineExceededError(
          absl::StrCat("version ", ToString(*exact), " of model \"", model,
                       "\" is not READY after ", elapsed, "; ",
                       newest ? absl::StrCat("it is ", Describe(*newest))
                              : std::string("the catalog does not know it")));
    }
    return absl::DeadlineExceededError(absl::StrCat(
        "model \"", model, "\" has no READY version",
        newer_than == nullptr
            ? std::string()
            : absl::StrCat(" newer than ", ToString(*newer_than)),
        required.empty()
            ? ""
            : absl::StrCat(" with the labels ", ToString(required)),
        " after ", elapsed, "; ",
        newest ? absl::StrCat("newest is ", Describe(*newest))
               : std::string("nothing has been published")));
  }
};

// watch.Next, with `between` called from slice to slice.
absl::StatusOr<VersionRecord> NextOf(
    VersionWatch& watch, base::Deadline deadline,
    const std::function<absl::Status()>& between) {
  while (between != nullptr && deadline.Remaining() > kSlice) {
    absl::StatusOr<VersionRecord> record =
        watch.Next(base::Deadline::After(kSlice));
    if (!absl::IsDeadlineExceeded(record.status())) return record;
    WEFT_RETURN_IF_ERROR(between());
  }
  return watch.Next(deadline);
}

}  // namespace

absl::StatusOr<VersionRecord> WaitForReady(
    CatalogStore& store, const std::string& model, const VersionId* exact,
    const VersionId* newer_than, base::Deadline deadline,
    const std::function<absl::Status()>& while_waiting,
    const Labels& required) {
  Waiting waiting{.model = model,
                  .exact = exact,
                  .newer_than = newer_than,
                  .required = required};
  absl::StatusOr<std::unique_ptr<VersionWatch>> watch =
      store.WatchVersions(model, deadline);
  if (absl::IsDeadlineExceeded(watch.status())) {
    return waiting.DeadlinePassed();
  }
  WEFT_RETURN_IF_ERROR(watch.status());
  while (true) {
    absl::StatusOr<VersionRecord> record =
        NextOf(**watch, deadline, while_waiting);
    if (absl::IsDeadlineExceeded(record.status())) {
      return waiting.DeadlinePassed();
    }
    WEFT_RETURN_IF_ERROR(record.status());
    waiting.Note(*record);
    if (!waiting.Matches(*record)) continue;
    if (record->state == VersionState::kReady) return record;
    if (exact != nullptr && record->state == VersionState::kGone) {
      return absl::FailedPreconditionError(
          absl::StrCat("version ", ToString(*exact), " of model \"", model,
                       "\" is GONE: ", record->reason));
    }
  }
}

}  // namespace weft::catalog
