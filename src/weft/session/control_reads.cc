#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/session/control_reads_internal.h"

namespace weft::session {
namespace {

// What failed cannot be mended by waiting, and the deadline may be far.
constexpr std::chrono::seconds kOthersWithin(1);

}  // namespace

std::vector<absl::Status> ReadFromAll(absl::Span<const LinkReads> wanted,
                                      base::Deadline deadline) {
  std::vector<absl::Status> results(wanted.size());
  std::vector<size_t> open;
  const auto end = [&](size_t i, absl::Status status) {
    results[i] = std::move(status);
    if (results[i].ok()) return;
    deadline = base::Deadline::At(
        std::min(deadline.when(), base::Deadline::After(kOthersWithin).when()));
  };
  for (size_t i = 0; i < wanted.size(); ++i) {
    absl::Status started = wanted[i].link->StartReads(wanted[i].reads);
    if (started.ok()) {
      open.push_back(i);
    } else {
      end(i, std::move(started));
    }
  }
  while (true) {
    std::erase_if(open, [&](size_t i) {
      const absl::StatusOr<bool> done = wanted[i].link->PollReads();
      if (!done.ok() || *done) end(i, done.status());
      return !done.ok() || *done;
    });
    if (open.empty()) return results;
    if (deadline.Passed()) break;
    std::this_thread::yield();
  }
  for (const size_t i : open) {
    results[i] = absl::DeadlineExceededError(absl::StrCat(
        "deadline passed while reading from ", wanted[i].link->name()));
  }
  return results;
}

std::vector<absl::StatusOr<uint64_t>> ReadEpochWords(
    absl::Span<SourceLink* const> links, base::Deadline deadline) {
  std::vector<absl::StatusOr<uint64_t>> words(links.size(), uint64_t{0});
  std::vector<LinkReads> wanted;
  std::vector<size_t> of_link;  // in `wanted`
  for (size_t i = 0; i < links.size(); ++i) {
    if (links[i]->control_mapped()) {
      words[i] = links[i]->LoadEpochWord();
      continue;
    }
    wanted.push_back(
        {links[i],
         {{links[i]->binding().epoch_word_offset_bytes,
           {reinterpret_cast<std::byte*>(&*words[i]), sizeof(uint64_t)}}}});
    of_link.push_back(i);
  }
  const std::vector<absl::Status> results = ReadFromAll(wanted, deadline);
  for (size_t w = 0; w < wanted.size(); ++w) {
    if (!results[w].ok()) words[of_link[w]] = results[w];
  }
  return words;
}

absl::Status AllRead(absl::Span<const absl::Status> results) {
  base::FaultList faults;
  absl::StatusCode code = absl::StatusCode::kOk;
  for (const absl::Status& each : results) {
    if (each.ok()) continue;
    faults.Add(std::string(each.message()));
    if (code == absl::StatusCode::kOk ||
        code == absl::StatusCode::kDeadlineExceeded) {
      code = each.code();
    }
  }
  return faults.ToStatus(code);
}

}  // namespace weft::session
