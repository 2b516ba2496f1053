#include "weft/convert/cpu/targets.h"

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"

namespace weft::convert::cpu {
namespace {

std::vector<int64_t> Targets() {
  std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  // A lower bit is a better target.
  std::sort(targets.begin(), targets.end());
  return targets;
}

}  // namespace

std::vector<std::string> SupportedTargetNames() {
  std::vector<std::string> names;
  for (const int64_t target : Targets()) {
    names.emplace_back(hwy::TargetName(target));
  }
  return names;
}

std::string ChosenTargetName() { return SupportedTargetNames().front(); }

void UseTarget(const std::string& name) {
  hwy::SetSupportedTargetsForTest(0);
  for (const int64_t target : Targets()) {
    if (name == hwy::TargetName(target)) {
      hwy::SetSupportedTargetsForTest(target);
    }
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace weft::convert::cpu
