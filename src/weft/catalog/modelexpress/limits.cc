#include "weft/catalog/limits.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "weft/catalog/modelexpress/limits_internal.h"

namespace weft::catalog {

void CheckMxText(std::string_view what, std::string_view text,
                 base::FaultList& faults) {
  if (static_cast<int64_t>(text.size()) > kMxMaxNameBytes) {
    faults.Add(absl::StrCat(std::string(what), " has ", text.size(),
                            " bytes, more than ", kMxMaxNameBytes));
    return;
  }
  for (const char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      faults.Add(absl::StrCat(std::string(what), " \"", CleanReason(text),
                              "\" holds a control character"));
      return;
    }
  }
}

void CheckMxName(std::string_view what, std::string_view name,
                 base::FaultList& faults) {
  if (std::all_of(name.begin(), name.end(), absl::ascii_isspace)) {
    faults.Add(absl::StrCat(std::string(what), " is required"));
    return;
  }
  CheckMxText(what, name, faults);
}

}  // namespace weft::catalog
