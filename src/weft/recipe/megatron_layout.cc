#include "weft/recipe/megatron_layout.h"

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "weft/base/status.h"

namespace weft::recipe {
namespace {

// More letters than any pipeline; bounds what a factor can blow up.
constexpr std::size_t kMaxLetters = 65536;

absl::Status Fail(const MegatronStages& stages, std::string_view message) {
  return absl::InvalidArgumentError(
      absl::StrCat("layout=", stages.layout, " ", std::string(message)));
}

// The text with its factors written out. Groups first, then single letters, as
// the framework does it: (ab)*2c*2 is ababcc.
class Unroller {
 public:
  explicit Unroller(const MegatronStages& stages)
      : stages_(stages), text_(stages.layout) {}

  absl::StatusOr<std::string> Unroll() {
    while (at_ < text_.size()) {
      std::string item(1, text_[at_++]);
      if (item == "(") {
        const auto close = text_.find(')', at_);
        item = std::string(text_.substr(at_, close - at_));
        if (close == std::string_view::npos || item.empty()) {
          return Fail(stages_, "has a group that does not end or is empty");
        }
        at_ = close + 1;
        // Factors within a group are written out again and again; they may be.
        WEFT_ASSIGN_OR_RETURN(item, UnrollLetters(item));
      }
      WEFT_ASSIGN_OR_RETURN(const std::size_t times, Factor(text_, at_));
      WEFT_RETURN_IF_ERROR(Repeat(item, times, unrolled_));
    }
    return unrolled_;
  }

 private:
  absl::StatusOr<std::string> UnrollLetters(const std::string& group) const {
    std::string result;
    for (std::size_t at = 0; at < group.size();) {
      const std::string letter(1, group[at++]);
      WEFT_ASSIGN_OR_RETURN(const std::size_t times, Factor(group, at));
      WEFT_RETURN_IF_ERROR(Repeat(letter, times, result));
    }
    return result;
  }

  absl::StatusOr<std::size_t> Factor(std::string_view text,
                                     std::size_t& at) const {
    if (at >= text.size() || text[at] != '*') return std::size_t{1};
    const std::size_t begin = ++at;
    while (at < text.size() &&
           absl::ascii_isdigit(static_cast<unsigned char>(text[at]))) {
      ++at;
    }
    int64_t times = 0;
    const std::string digits(text.substr(begin, at - begin));
    if (!absl::SimpleAtoi(digits, &times) ||
        times > static_cast<int64_t>(kMaxLetters)) {
      return Fail(stages_, absl::StrCat("has the factor \"", digits, "\""));
    }
    return static_cast<std::size_t>(times);
  }

  absl::Status Repeat(const std::string& item, std::size_t times,
                      std::string& result) const {
    if (result.size() + item.size() * times > kMaxLetters) {
      return Fail(stages_, absl::StrCat("has more than ", kMaxLetters,
                                        " letters when it is written out"));
    }
    for (std::size_t i = 0; i < times; ++i) result += item;
    return absl::OkStatus();
  }

  const MegatronStages& stages_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::string unrolled_;
};

}  // namespace

absl::StatusOr<std::vector<StageChunk>> ParseMegatronLayout(
    const MegatronStages& stages) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, Unroller(stages).Unroll());
  std::vector<StageChunk> chunks;
  int64_t next = 0, embeddings = 0, losses = 0;
  for (const std::string& letters :
       std::vector<std::string>(absl::StrSplit(text, '|'))) {
    StageChunk& chunk = chunks.emplace_back();
    chunk.layers.begin = next;
    for (const char letter : letters) {
      if (letter == 't') {
        ++next;
      } else if (letter == 'm') {
        chunk.mtp = true;
      } else if (letter == 'E') {
        chunk.first = true;
        ++embeddings;
      } else if (letter == 'L') {
        chunk.last = true;
        ++losses;
      } else {
        return Fail(stages,
                    absl::StrCat("has the letter \"", std::string(1, letter),
                                 "\"; known are E, t, m, L"));
      }
    }
    chunk.layers.end = next;
  }
  const int64_t count = static_cast<int64_t>(chunks.size());
  if (count % stages.pp != 0 || count / stages.pp != stages.vpp) {
    return Fail(stages, absl::StrCat("has ", count, " stages, not pp*vpp=",
                                     stages.pp, "*", stages.vpp));
  }
  if (next != stages.num_layers) {
    return Fail(stages,
                absl::StrCat("has ", next, " layers, not num_hidden_layers=",
                             stages.num_layers));
  }
  if (embeddings != 1 || losses != 1 || !chunks.front().first ||
      !chunks.back().last) {
    return Fail(stages,
                "needs one E, in its first stage, and one L, in its last");
  }
  return chunks;
}

}  // namespace weft::recipe
