#include "weft/plan/move_runs.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "weft/base/status.h"

namespace weft::plan {

using layout::IndexMap;
using layout::Run;
using tensor::Box;

namespace {

bool IsIntersection(const Box& a, const Box& b, const Box& box) {
  for (int dim = 0; dim < box.rank(); ++dim) {
    if (box.range(dim).begin !=
            std::max(a.range(dim).begin, b.range(dim).begin) ||
        box.range(dim).end != std::min(a.range(dim).end, b.range(dim).end)) {
      return false;
    }
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<Run>> RunsOfBox(const IndexMap& src,
                                           const IndexMap& dst, const Box& box,
                                           int64_t max_runs) {
  if (IsIntersection(src.box(), dst.box(), box)) {
    return layout::CommonRuns(src, dst, max_runs);
  }
  std::vector<Run> runs;
  for (const IndexMap& part : layout::Restrict(src, box)) {
    WEFT_ASSIGN_OR_RETURN(
        std::vector<Run> more,
        layout::CommonRuns(part, dst,
                           max_runs - static_cast<int64_t>(runs.size())));
    std::move(more.begin(), more.end(), std::back_inserter(runs));
  }
  return runs;
}

absl::StatusOr<IndexMap> ScratchMap(const Box& box) {
  const tensor::Shape shape = box.shape();
  const tensor::Shape origin(shape.size(), 0);
  return IndexMap::RowMajor(box, shape, origin);
}

}  // namespace weft::plan
