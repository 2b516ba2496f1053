#include "weft/plan/box_set.h"

#include <algorithm>
#include <iterator>
#include <numeric>

namespace weft::plan {
namespace {

using tensor::Box;
using tensor::Range;

// Measure of the union over dimensions dim.. of `boxes`: between two
// neighbouring cuts of `dim` the set of boxes does not change.
int64_t SweepUnion(const std::vector<const Box*>& boxes, int dim) {
  if (boxes.empty()) return 0;
  if (dim == boxes[0]->rank()) return 1;
  std::vector<int64_t> cuts;
  for (const Box* box : boxes) {
    cuts.push_back(box->range(dim).begin);
    cuts.push_back(box->range(dim).end);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  int64_t elements = 0;
  std::vector<const Box*> active;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    active.clear();
    for (const Box* box : boxes) {
      if (box->range(dim).begin <= cuts[i] &&
          box->range(dim).end >= cuts[i + 1]) {
        active.push_back(box);
      }
    }
    elements += (cuts[i + 1] - cuts[i]) * SweepUnion(active, dim + 1);
  }
  return elements;
}

}  // namespace

bool Overlaps(const Box& a, const Box& b) {
  for (int dim = 0; dim < a.rank(); ++dim) {
    if (std::max(a.range(dim).begin, b.range(dim).begin) >=
        std::min(a.range(dim).end, b.range(dim).end)) {
      return false;
    }
  }
  return true;
}

bool LessBox(const Box& a, const Box& b) {
  for (int dim = 0; dim < std::min(a.rank(), b.rank()); ++dim) {
    const Range& left = a.range(dim);
    const Range& right = b.range(dim);
    if (left.begin != right.begin) return left.begin < right.begin;
    if (left.end != right.end) return left.end < right.end;
  }
  return a.rank() < b.rank();
}

int MostCutDimension(absl::Span<const Box* const> boxes) {
  const int rank = boxes[0]->rank();
  if (boxes.size() == 1) return rank == 0 ? -1 : 0;
  int best_dim = -1;
  int64_t best_cuts = 0;
  std::vector<int64_t> begins(boxes.size());
  for (int dim = 0; dim < rank; ++dim) {
    std::transform(boxes.begin(), boxes.end(), begins.begin(),
                   [dim](const Box* box) { return box->range(dim).begin; });
    std::sort(begins.begin(), begins.end());
    const int64_t cuts =
        std::unique(begins.begin(), begins.end()) - begins.begin();
    if (cuts > best_cuts) {
      best_cuts = cuts;
      best_dim = dim;
    }
  }
  return best_dim;
}

std::optional<std::pair<size_t, size_t>> FindOverlap(
    absl::Span<const Box* const> boxes) {
  if (boxes.size() < 2) return std::nullopt;
  const int dim = MostCutDimension(boxes);
  if (dim < 0) return std::pair<size_t, size_t>(0, 1);
  std::vector<size_t> order(boxes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return boxes[a]->range(dim).begin < boxes[b]->range(dim).begin;
  });
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t end = boxes[order[i]]->range(dim).end;
    for (size_t j = i + 1; j < order.size(); ++j) {
      if (boxes[order[j]]->range(dim).begin >= end) break;
      if (Overlaps(*boxes[order[i]], *boxes[order[j]])) {
        return std::minmax(order[i], order[j]);
      }
    }
  }
  return std::nullopt;
}

std::vector<Box> SubtractAll(const Box& whole,
                             absl::Span<const Box* const> parts) {
  std::vector<Box> rest;
  if (!whole.empty()) rest.push_back(whole);
  for (const Box* part : parts) {
    std::vector<Box> next;
    for (const Box& box : rest) {
      std::vector<Box> pieces = tensor::Subtract(box, *part);
      std::move(pieces.begin(), pieces.end(), std::back_inserter(next));
    }
    rest = std::move(next);
  }
  std::sort(rest.begin(), rest.end(), LessBox);
  return rest;
}

int64_t UnionElements(std::vector<const Box*> boxes) {
  std::erase_if(boxes, [](const Box* box) { return box->empty(); });
  std::sort(boxes.begin(), boxes.end(),
            [](const Box* a, const Box* b) { return LessBox(*a, *b); });
  boxes.erase(std::unique(boxes.begin(), boxes.end(),
                          [](const Box* a, const Box* b) { return *a == *b; }),
              boxes.end());
  if (!FindOverlap(boxes).has_value()) {
    int64_t elements = 0;
    for (const Box* box : boxes) elements += box->num_elements();
    return elements;
  }
  return SweepUnion(boxes, 0);
}

}  // namespace weft::plan
