#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/checkpoint/strict_json_internal.h"

namespace weft::checkpoint {
namespace {

// Watches the parser's events; nlohmann itself keeps the last of two equal
// keys without a word.
class KeyWatcher {
 public:
  explicit KeyWatcher(int max_depth) : max_depth_(max_depth) {}

  // Returns whether the parser keeps the value.
  bool OnEvent(int depth, nlohmann::json::parse_event_t event,
               const nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= max_depth_) {
        too_deep_ = true;
        return false;
      }
      if (event == Event::object_start) keys_.emplace_back();
    } else if (event == Event::object_end) {
      if (!keys_.empty()) keys_.pop_back();
    } else if (event == Event::key && !too_deep_) {
      std::string key = parsed.get<std::string>();
      if (!keys_.back().insert(key).second) {
        faults_.Add(absl::StrCat("key \"", key, "\" occurs twice"));
      }
    }
    return true;
  }

  absl::Status Finish() const {
    if (too_deep_) {
      return absl::InvalidArgumentError(
          absl::StrCat("JSON is nested deeper than ", max_depth_, " levels"));
    }
    return faults_.ToStatus(absl::StatusCode::kInvalidArgument);
  }

 private:
  int max_depth_;
  bool too_deep_ = false;
  std::vector<std::set<std::string>> keys_;
  base::FaultList faults_;
};

}  // namespace

absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text,
                                               int max_depth) {
  KeyWatcher watcher(max_depth);
  try {
    nlohmann::json value = nlohmann::json::parse(
        text.begin(), text.end(),
        [&watcher](int depth, nlohmann::json::parse_event_t event,
                   nlohmann::json& parsed) {
          return watcher.OnEvent(depth, event, parsed);
        });
    WEFT_RETURN_IF_ERROR(watcher.Finish());
    return value;
  } catch (const nlohmann::json::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad JSON at byte ", error.byte));
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("bad JSON: ", error.what()));
  }
}

}  // namespace weft::checkpoint
