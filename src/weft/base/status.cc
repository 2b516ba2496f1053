#include "weft/base/status.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace weft::base {

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(
      status.code(),
      absl::StrCat(absl::string_view(context.data(), context.size()), ": ",
                   status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

void FaultList::Add(std::string fault) { faults_.push_back(std::move(fault)); }

absl::Status FaultList::ToStatus(absl::StatusCode code,
                                 std::size_t max_listed) const {
  if (faults_.empty()) return absl::OkStatus();
  const std::size_t listed = std::min(max_listed, faults_.size());
  std::string message = absl::StrJoin(
      faults_.begin(), faults_.begin() + static_cast<std::ptrdiff_t>(listed),
      "; ");
  if (listed < faults_.size()) {
    absl::StrAppend(&message, "; and ", faults_.size() - listed, " more");
  }
  return absl::Status(code, message);
}

}  // namespace weft::base
