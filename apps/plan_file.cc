#include "plan_file.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "plan_diff.h"
#include "weft/base/read_file.h"
#include "weft/base/status.h"
#include "weft/manifest/packed_bytes.h"
#include "weft/plan/diff_placements.h"
#include "weft/plan/plan_codec.h"

namespace weft::apps {
namespace {

// Why the plan cannot be carried out between these layouts; "" if it can.
std::string MisfitOf(const PlanJob& job, const plan::CompactPlan& plan) {
  const auto r = static_cast<size_t>(plan.target_rank);
  if (plan.target_digest != job.target_digests[r]) {
    return absl::StrCat("the plan is for target ", plan.target_digest.ToHex(),
                        " but this is ", job.target_digests[r].ToHex());
  }
  return std::string(
      plan::CheckCompactPlan(plan, *job.index, job.targets[r], {}).message());
}

}  // namespace

std::string PlanFileBytes(const plan::CompactPlan& plan) {
  return manifest::PackBytes(plan::EncodePlan(plan));
}

bool IsPlanFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  file.read(magic, sizeof(magic));
  return file.good() && std::string_view(magic, sizeof(magic)) == "WFPZ";
}

absl::StatusOr<plan::CompactPlan> LoadPlan(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(const std::string packed, base::ReadFile(path));
  const absl::StatusOr<std::string> bytes = manifest::UnpackBytes(packed);
  WEFT_RETURN_IF_ERROR(base::Annotate(bytes.status(), path));
  absl::StatusOr<plan::CompactPlan> plan = plan::DecodePlan(*bytes);
  WEFT_RETURN_IF_ERROR(base::Annotate(plan.status(), path));
  return plan;
}

absl::StatusOr<std::string> DiffPlanFile(const PlanJob& job,
                                         const std::string& path, bool json) {
  WEFT_ASSIGN_OR_RETURN(const plan::CompactPlan theirs, LoadPlan(path));
  const int64_t rank = theirs.target_rank;
  if (rank < 0 || rank >= static_cast<int64_t>(job.targets.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is the plan of rank ", rank, ", which is not below the ",
        job.targets.size(), " ranks of \"", job.to_text, "\""));
  }
  WEFT_ASSIGN_OR_RETURN(const plan::CompactPlan ours, PlanRank(job, rank));
  const std::string misfit = MisfitOf(job, theirs);
  // Its numbers mean something for these layouts alone.
  std::vector<RankDifference> differences;
  if (misfit.empty()) {
    const manifest::Placement& target = job.targets[rank];
    for (plan::StoredDifference& each :
         plan::DiffSources(ours, target, theirs, target)) {
      differences.push_back({rank, std::move(each)});
    }
  }
  const bool equal = ours == theirs;
  if (json) {
    return nlohmann::json{{"equal", equal},
                          {"from", job.from_text},
                          {"to", job.to_text},
                          {"rank", rank},
                          {"misfit", misfit.empty() ? nlohmann::json(nullptr)
                                                    : nlohmann::json(misfit)},
                          {"differences", DifferencesJson(differences)}}
        .dump();
  }
  std::string text =
      absl::StrCat("here:  rank ", rank, " of ", job.from_text, " -> ",
                   job.to_text, "\nthere: ", path, "\n\n");
  if (!misfit.empty()) {
    absl::StrAppend(&text, "the file does not fit these layouts: ", misfit);
  } else if (equal) {
    absl::StrAppend(&text, "the same plan, and it still fits (checked)");
  } else if (differences.empty()) {
    absl::StrAppend(&text,
                    "another plan that fits (checked): the same bytes from "
                    "the same ranks, in other moves");
  } else {
    absl::StrAppend(&text, "another plan that fits (checked)\n",
                    FormatDifferences(differences));
  }
  return text;
}

}  // namespace weft::apps
