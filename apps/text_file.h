// Whole text files.
#ifndef WEFT_APPS_TEXT_FILE_H_
#define WEFT_APPS_TEXT_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::apps {

// kUnavailable names the path and the reason.
absl::StatusOr<std::string> ReadText(const std::string& path);
absl::Status WriteText(const std::string& path, const std::string& text);

}  // namespace weft::apps

#endif  // WEFT_APPS_TEXT_FILE_H_
