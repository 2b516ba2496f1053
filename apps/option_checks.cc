#include "option_checks.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace weft::apps {
namespace {

CLI::Validator NumberThat(bool (*holds)(double), const std::string& words,
                          const std::string& name) {
  const auto fault = [holds, words](const std::string& text) -> std::string {
    double value = 0;
    const bool is_number =
        absl::SimpleAtod(text, &value) && std::isfinite(value);
    if (is_number && holds(value)) return "";
    return absl::StrCat("\"", text, "\" is not a number ", words);
  };
  return CLI::Validator(fault, name);
}

}  // namespace

CLI::Validator AboveZero() {
  return NumberThat([](double value) { return value > 0; }, "above 0",
                    "POSITIVE");
}

CLI::Validator NotBelowZero() {
  return NumberThat([](double value) { return value >= 0; }, "of 0 or more",
                    "NONNEGATIVE");
}

}  // namespace weft::apps
