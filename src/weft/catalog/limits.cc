#include "weft/catalog/limits.h"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/manifest/placement.h"

namespace weft::catalog {
namespace {

bool IsPrintable(char c) { return c >= 0x20 && c <= 0x7e; }

bool IsLowerHex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

void AddIfFault(const absl::Status& status, base::FaultList& faults) {
  if (!status.ok()) faults.Add(std::string(status.message()));
}

void CheckHeldShards(const WorkerInfo& info, base::FaultList& faults) {
  const std::vector<std::string>& keys = info.held_shards;
  if (keys.empty()) return;
  if (info.role != Role::kCopy) {
    faults.Add("held shards are for copies, a publisher has its shard key");
  }
  if (static_cast<int64_t>(keys.size()) > kMaxHeldShards) {
    faults.Add(absl::StrCat(keys.size(), " held shards exceed the limit of ",
                            kMaxHeldShards));
  }
  for (const std::string& key : keys) {
    const absl::Status status = CheckDigestHex(key);
    if (status.ok()) continue;
    faults.Add(absl::StrCat("held shard: ", std::string(status.message())));
    break;
  }
  if (std::adjacent_find(keys.begin(), keys.end(), std::greater_equal<>()) !=
      keys.end()) {
    faults.Add("held shards do not ascend");
  }
}

}  // namespace

absl::Status CheckText(std::string_view what, std::string_view text) {
  if (absl::Status status = CheckByteCount(what, text, kMaxTextBytes);
      !status.ok()) {
    return status;
  }
  const auto bad = std::find_if_not(text.begin(), text.end(), IsPrintable);
  if (bad != text.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        std::string(what), " has byte 0x",
        absl::Hex(static_cast<uint8_t>(*bad), absl::kZeroPad2), " at offset ",
        bad - text.begin(), ", only printable ASCII is allowed"));
  }
  return absl::OkStatus();
}

absl::Status CheckByteCount(std::string_view what, std::string_view bytes,
                            int64_t limit_bytes) {
  if (static_cast<int64_t>(bytes.size()) <= limit_bytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(what), " has ", bytes.size(), " bytes, at most ",
                   limit_bytes, " are allowed"));
}

absl::Status CheckDigestHex(std::string_view digest_hex) {
  if (digest_hex.size() == 64 &&
      std::all_of(digest_hex.begin(), digest_hex.end(), IsLowerHex)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "placement digest \"", CleanReason(digest_hex.substr(0, 80)), "\" of ",
      digest_hex.size(), " characters is not 64 lower-case hex digits"));
}

absl::Status CheckPlacement(const std::string& digest_hex,
                            const std::string& bytes) {
  WEFT_RETURN_IF_ERROR(CheckDigestHex(digest_hex));
  WEFT_RETURN_IF_ERROR(CheckByteCount("placement", bytes, kMaxPlacementBytes));
  const std::string actual = manifest::DigestOf(bytes).ToHex();
  if (actual == digest_hex) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("placement of ", bytes.size(), " bytes was put as ",
                   digest_hex, " but its digest is ", actual));
}

absl::Status CheckLabels(const Labels& labels) {
  base::FaultList faults;
  if (static_cast<int64_t>(labels.size()) > kMaxLabels) {
    faults.Add(absl::StrCat(labels.size(), " labels, at most ", kMaxLabels,
                            " are allowed"));
  }
  for (const auto& [name, value] : labels) {
    AddIfFault(CheckName("label", name), faults);
    AddIfFault(
        CheckText(absl::StrCat("label \"", CleanReason(name), "\""), value),
        faults);
    AddIfFault(CheckByteCount(absl::StrCat("label \"", CleanReason(name), "\""),
                              value, kMaxLabelBytes),
               faults);
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::Status CheckWorkerInfo(const WorkerInfo& info) {
  base::FaultList faults;
  const bool publishes =
      info.role == Role::kPublisher || info.role == Role::kCopy;
  AddIfFault(CheckName("model", info.model), faults);
  if (!publishes && info.role != Role::kReceiver) {
    faults.Add(absl::StrCat("role ", static_cast<int>(info.role),
                            " is neither publisher (1) nor receiver (2) nor "
                            "copy (3)"));
  }
  AddIfFault(CheckText("layout_spec", info.layout_spec), faults);
  AddIfFault(CheckText("host_id", info.host_id), faults);
  if (info.num_ranks < 1 || info.num_ranks > kMaxRanks) {
    faults.Add(absl::StrCat("num_ranks ", info.num_ranks,
                            " is not between 1 and ", kMaxRanks));
  }
  if (info.rank < 0 || info.rank >= info.num_ranks) {
    faults.Add(absl::StrCat("rank ", info.rank, " is not in [0,",
                            info.num_ranks, ")"));
  }
  if (publishes || !info.run_id.empty()) {
    AddIfFault(CheckName("run id", info.run_id), faults);
  }
  if (publishes || !info.placement_digest_hex.empty()) {
    AddIfFault(CheckDigestHex(info.placement_digest_hex), faults);
  }
  if (!info.model_card_digest_hex.empty()) {
    AddIfFault(CheckDigestHex(info.model_card_digest_hex), faults);
  }
  if (!info.shard_key.empty()) {
    if (absl::Status status = CheckDigestHex(info.shard_key); !status.ok()) {
      faults.Add(absl::StrCat("shard key: ", std::string(status.message())));
    }
  }
  CheckHeldShards(info, faults);
  AddIfFault(CheckLabels(info.labels), faults);
  if (!publishes && !info.labels.empty()) {
    faults.Add("labels are for publishers, a receiver has none");
  }
  if (!info.owner.empty()) AddIfFault(CheckName("owner", info.owner), faults);
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

std::string CleanReason(std::string_view reason) {
  std::string clean(reason.substr(0, kMaxTextBytes));
  std::replace_if(
      clean.begin(), clean.end(), [](char c) { return !IsPrintable(c); }, '?');
  return clean;
}

}  // namespace weft::catalog
