#include "weft/plan/plan.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "placements.h"
#include "raise.h"
#include "sessions.h"
#include "weft/base/status.h"
#include "weft/plan/explain.h"
#include "weft/plan/stages.h"
#include "weft/recipe/recipe.h"
#include "weft/session/rank_placement.h"

namespace weft::python {
namespace {

namespace nb = nanobind;

manifest::LayoutDigest DigestOf(const manifest::Placement& placement) {
  return manifest::DigestOf(manifest::EncodePlacement(placement));
}

// A plan with the two sides that it speaks of.
struct PlanOfOne {
  std::vector<manifest::Placement> sources;
  manifest::Placement target;
  std::shared_ptr<const plan::SourceIndex> index;
  plan::Plan plan;
};

absl::Status CheckSides(const PlanOfOne& made) {
  base::FaultList faults;
  for (const manifest::Placement& source : made.sources) {
    const absl::Status checked = manifest::CheckPlacement(source, false);
    if (!checked.ok()) faults.Add(std::string(checked.message()));
  }
  const absl::Status checked = manifest::CheckPlacement(made.target, true);
  if (!checked.ok()) faults.Add(std::string(checked.message()));
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

std::shared_ptr<PlanOfOne> MakePlan(nb::handle sources, nb::handle target,
                                    int64_t staging_bytes) {
  auto made = std::make_shared<PlanOfOne>();
  for (nb::handle source : sources) made->sources.push_back(FromPython(source));
  made->target = FromPython(target);
  RaiseIfError(CheckSides(*made));
  std::vector<plan::SourceInfo> infos;
  for (const manifest::Placement& source : made->sources) {
    infos.push_back({.placement = &source, .digest = DigestOf(source)});
  }
  made->index = ValueOrRaise(plan::SourceIndex::Make(std::move(infos)));
  plan::PlanLimits limits;
  limits.staging_bytes = staging_bytes;
  const manifest::LayoutDigest digest = DigestOf(made->target);
  plan::StagedTarget staged = ValueOrRaise(
      plan::StageTarget(*made->index, made->target, limits), Phase::kPlanning);
  made->target = std::move(staged.placement);
  made->plan =
      ValueOrRaise(WithoutGil([&] {
                     return plan::BuildStagedPlan(*made->index, made->target,
                                                  staged.steps, digest, limits);
                   }),
                   Phase::kPlanning);
  return made;
}

nb::object RecipePlacement(const std::string& config_json,
                           const std::string& layout, int64_t rank,
                           const std::string& recipes) {
  const recipe::ModelConfig config =
      ValueOrRaise(recipe::ParseModelConfig(config_json));
  const recipe::RecipeBook book =
      ValueOrRaise(recipe::RecipeBook::Load(recipes));
  const recipe::Recipe* recipe = ValueOrRaise(book.Find(config.architecture));
  const recipe::LayoutSpec spec = ValueOrRaise(recipe::ParseLayoutSpec(layout));
  const std::vector<tensor::TensorSpec> logical =
      ValueOrRaise(recipe->LogicalTensors(config));
  return ToPython(session::ToPlacement(
      ValueOrRaise(recipe->Layout(config, spec, rank, logical))));
}

}  // namespace

void AddPlan(nb::module_& module) {
  nb::class_<PlanOfOne>(module, "Plan")
      .def("explain",
           [](const PlanOfOne& self) {
             return plan::ExplainPlan(self.plan, *self.index, self.target, {});
           })
      .def("json", [](const PlanOfOne& self) {
        return plan::ExplainPlanJson(self.plan, *self.index, self.target, {});
      });
  module.def("plan", &MakePlan);
  module.def("recipe_placement", &RecipePlacement);
}

}  // namespace weft::python
