#include "text_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace weft::apps {

absl::Status WriteText(const std::string& path, const std::string& text) {
  const auto failed = [&path] {
    return absl::UnavailableError(
        absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  };
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return failed();
  const bool written =
      std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const absl::Status status = written ? absl::OkStatus() : failed();
  if (std::fclose(file) != 0 && status.ok()) return failed();
  return status;
}

}  // namespace weft::apps
