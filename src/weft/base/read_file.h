// A whole file as bytes.
#ifndef WEFT_BASE_READ_FILE_H_
#define WEFT_BASE_READ_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace weft::base {

// What `path` holds. kNotFound if it does not exist, kUnavailable for whatever
// else stands against it (a directory, no permission), with the path and the
// system's reason.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace weft::base

#endif  // WEFT_BASE_READ_FILE_H_
