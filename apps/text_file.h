// A text as a whole file.
#ifndef WEFT_APPS_TEXT_FILE_H_
#define WEFT_APPS_TEXT_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace weft::apps {

// kUnavailable names the path and the reason.
absl::Status WriteText(const std::string& path, const std::string& text);

}  // namespace weft::apps

#endif  // WEFT_APPS_TEXT_FILE_H_
