// What all commands print alike: tables, byte counts, one-sentence errors.
#ifndef WEFT_APPS_CONSOLE_H_
#define WEFT_APPS_CONSOLE_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace weft::apps {

// "1.25 GB", "640 B"; decimal units.
std::string HumanBytes(int64_t bytes);
// "12.3 GB/s".
std::string HumanRate(double bytes_per_second);
// "1.24 s", "3.1 ms", "45 us".
std::string HumanSeconds(double seconds);

// Rows of cells under a header, columns aligned (numbers to the right).
std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows);

// "weft <command>: <message>" on standard error; returns exit code 1. With
// `json` also {"error": message, "code": NAME} as a line on standard output.
int Fail(std::string_view command, const absl::Status& status,
         bool json = false);

// Bytes done of a long transfer, as one line on standard error that is
// rewritten; only on a terminal, and only after the first second. The line is
// wiped when the object goes.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  void Show(int64_t bytes_done, int64_t bytes_total);

 private:
  const std::string what_;
  const bool is_terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point next_;
  bool shown_ = false;
};

// Standard output, flushed line by line, so that a program can follow.
void PrintLine(std::string_view line);
// kResourceExhausted when standard output has taken less than was printed: a
// full disk.
absl::Status CheckPrinted();

}  // namespace weft::apps

#endif  // WEFT_APPS_CONSOLE_H_
