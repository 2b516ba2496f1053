#include <algorithm>
#include <string>

#include "absl/strings/str_join.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

bool HasLabels(const Labels& labels, const Labels& required) {
  return std::all_of(required.begin(), required.end(), [&](const auto& each) {
    const auto found = labels.find(each.first);
    return found != labels.end() && found->second == each.second;
  });
}

std::string ToString(const Labels& labels) {
  return absl::StrJoin(labels, ",", absl::PairFormatter("="));
}

std::string WorkerOfLease(std::string_view lease_id) {
  const size_t dot = lease_id.find('.');
  return dot == std::string_view::npos ? ""
                                       : std::string(lease_id.substr(dot + 1));
}

}  // namespace weft::catalog
