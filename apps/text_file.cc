#include "text_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace weft::apps {

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)),
                   std::istreambuf_iterator<char>());
  if (!file) {
    return absl::UnavailableError(
        absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  return text;
}

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
