#include "console.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace weft::apps {
namespace {

std::atomic<int> print_error{0};

// 999.95 and not 1000.0 is where the next unit begins, so that rounding never
// prints "1000.0 MB".
std::string Scaled(double value, const std::vector<std::string>& units) {
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f} {}", value, units[0]);
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : 1, units[unit]);
}

bool LooksNumeric(const std::string& cell) {
  return !cell.empty() &&
         (std::isdigit(static_cast<unsigned char>(cell[0])) != 0 ||
          cell[0] == '-');
}

}  // namespace

std::string HumanBytes(int64_t bytes) {
  return Scaled(static_cast<double>(bytes), {"B", "kB", "MB", "GB", "TB"});
}

std::string HumanRate(double bytes_per_second) {
  return Scaled(bytes_per_second, {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"});
}

std::string HumanSeconds(double seconds) {
  if (seconds >= 1) return fmt::format("{:.2f} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.1f} ms", seconds * 1e3);
  return fmt::format("{:.0f} us", seconds * 1e6);
}

std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const std::string& cell : header) widths.push_back(cell.size());
  std::vector<bool> numeric(header.size(), true);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size() && c < widths.size(); ++c) {
      widths[c] = std::max(widths[c], row[c].size());
      if (!row[c].empty() && !LooksNumeric(row[c])) numeric[c] = false;
    }
  }
  std::string text;
  const auto append = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t c = 0; c < widths.size(); ++c) {
      const std::string cell = c < row.size() ? row[c] : "";
      line += numeric[c] ? fmt::format("{:>{}}", cell, widths[c])
                         : fmt::format("{:<{}}", cell, widths[c]);
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  append(header);
  for (const auto& row : rows) append(row);
  return text;
}

int Fail(std::string_view command, const absl::Status& status, bool json) {
  const std::string message(status.message());
  std::fprintf(stderr, "weft %s: %s\n", std::string(command).c_str(),
               message.c_str());
  if (json) {
    const nlohmann::json line = {
        {"error", message},
        {"code", std::string(absl::StatusCodeToString(status.code()))}};
    PrintLine(line.dump());
  }
  return 1;
}

ProgressLine::ProgressLine(std::string what)
    : what_(std::move(what)),
      is_terminal_(isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      next_(start_ + std::chrono::seconds(1)) {}

ProgressLine::~ProgressLine() {
  if (shown_) std::fputs("\r\x1b[K", stderr);
}

void ProgressLine::Show(int64_t bytes_done, int64_t bytes_total) {
  const auto now = std::chrono::steady_clock::now();
  if (!is_terminal_ || bytes_total <= 0 || now < next_) return;
  next_ = now + std::chrono::milliseconds(200);
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  fmt::print(stderr, "\r\x1b[K{} {:3.0f} % of {}, {}", what_,
             100.0 * static_cast<double>(bytes_done) /
                 static_cast<double>(bytes_total),
             HumanBytes(bytes_total),
             HumanRate(static_cast<double>(bytes_done) / seconds));
  std::fflush(stderr);
}

void PrintLine(std::string_view line) {
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
  if (std::fflush(stdout) != 0) print_error = errno;
}

absl::Status CheckPrinted() {
  if (std::fflush(stdout) != 0) print_error = errno;
  if (std::ferror(stdout) == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "cannot write to standard output: ", std::strerror(print_error)));
}

}  // namespace weft::apps
