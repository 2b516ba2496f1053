#include "weft/catalog/access/tokens.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {
namespace {

constexpr std::size_t kMinTokenBytes = 16;
constexpr std::size_t kMaxTokenBytes = 1024;
constexpr std::size_t kMaxTokens = 10'000;
constexpr std::string_view kHashed = "sha256:";

constexpr std::array<std::pair<std::string_view, Roles>, 4> kRoleNames = {
    {{"publish", kMayPublish},
     {"receive", kMayReceive},
     {"read", kMayRead},
     {"admin", kMayAdmin}}};

absl::StatusOr<Roles> ParseRoles(std::string_view text) {
  Roles roles = 0;
  for (const std::string& word :
       std::vector<std::string>(absl::StrSplit(std::string(text), ','))) {
    const auto known =
        std::find_if(kRoleNames.begin(), kRoleNames.end(),
                     [&](const auto& each) { return each.first == word; });
    if (known == kRoleNames.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown role \"", CleanReason(word.substr(0, 32)),
                       "\"; known are publish, receive, read, admin"));
    }
    roles |= known->second;
  }
  return roles;
}

// Of a token itself, or as the file gives it.
absl::StatusOr<std::string> DigestOfWord(const std::string& word) {
  if (word.rfind(kHashed, 0) == 0) {
    const std::string hex = word.substr(kHashed.size());
    if (!CheckDigestHex(hex).ok()) {
      return absl::InvalidArgumentError(
          "after sha256: there must be 64 lower-case hexadecimal digits");
    }
    return hex;
  }
  WEFT_RETURN_IF_ERROR(CheckToken(word));
  return manifest::DigestOf(word).ToHex();
}

absl::StatusOr<TokenEntry> ParseLine(const std::string& line) {
  const std::vector<std::string> words =
      absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
  if (words.size() != 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("a line has roles, a name and a token, this one has ",
                     words.size(), " words"));
  }
  TokenEntry entry;
  WEFT_ASSIGN_OR_RETURN(entry.roles, ParseRoles(words[0]));
  WEFT_RETURN_IF_ERROR(CheckName("token name", words[1]));
  entry.name = words[1];
  WEFT_ASSIGN_OR_RETURN(entry.digest_hex, DigestOfWord(words[2]));
  return entry;
}

bool IsSameInConstantTime(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |=
        static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  // The compiler may not look into it and stop early.
  const volatile unsigned result = difference;
  return result == 0;
}

}  // namespace

std::string RolesText(Roles roles) {
  std::vector<std::string> names;
  for (const auto& [name, role] : kRoleNames) {
    if ((roles & role) != 0) names.emplace_back(name);
  }
  return absl::StrJoin(names, ", ");
}

absl::Status CheckToken(std::string_view token) {
  const bool fits =
      token.size() >= kMinTokenBytes && token.size() <= kMaxTokenBytes;
  const bool printable = std::all_of(
      token.begin(), token.end(), [](char c) { return c > 0x20 && c <= 0x7e; });
  if (fits && printable) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a token has ", kMinTokenBytes, " to ", kMaxTokenBytes,
      " characters of printable ASCII without spaces, this one has ",
      token.size(), printable ? "" : " with others among them"));
}

absl::StatusOr<TokenTable> TokenTable::Parse(std::string_view text) {
  TokenTable table;
  base::FaultList faults;
  std::map<std::string, Roles> roles_of;
  std::set<std::string> digests;
  int number = 0;
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(std::string(text), '\n'))) {
    ++number;
    const std::size_t start = line.find_first_not_of(" \t\r");
    if (start == std::string::npos || line[start] == '#') continue;
    absl::StatusOr<TokenEntry> entry = ParseLine(line);
    if (entry.ok() && !digests.insert(entry->digest_hex).second) {
      entry = absl::InvalidArgumentError("its token is on a line before");
    }
    if (entry.ok() &&
        roles_of.emplace(entry->name, entry->roles).first->second !=
            entry->roles) {
      entry = absl::InvalidArgumentError(absl::StrCat(
          "\"", entry->name, "\" has the roles ",
          RolesText(roles_of[entry->name]), " on a line before, and ",
          RolesText(entry->roles), " here"));
    }
    if (!entry.ok()) {
      faults.Add(absl::StrCat("line ", number, ": ",
                              std::string(entry.status().message())));
      continue;
    }
    table.entries_.push_back(*std::move(entry));
  }
  if (table.entries_.size() > kMaxTokens) {
    faults.Add(absl::StrCat(table.entries_.size(), " tokens, at most ",
                            kMaxTokens, " are allowed"));
  }
  if (faults.empty() && table.entries_.empty()) {
    faults.Add("there is no token in it: nobody could do anything");
  }
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  return table;
}

const TokenEntry* TokenTable::Find(std::string_view token) const {
  const std::string digest_hex = manifest::DigestOf(token).ToHex();
  const TokenEntry* found = nullptr;
  for (const TokenEntry& entry : entries_) {
    if (IsSameInConstantTime(entry.digest_hex, digest_hex)) found = &entry;
  }
  return found;
}

}  // namespace weft::catalog
