// Inside of room `plan`: what the moves of a compact plan need, counted on the
// series.
#ifndef WEFT_PLAN_COUNT_SERIES_H_
#define WEFT_PLAN_COUNT_SERIES_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "weft/layout/index_map.h"
#include "weft/plan/compact_plan.h"
#include "weft/plan/source_table.h"
#include "weft/tensor/box.h"

namespace weft::plan {

// What one move needs, at the source.
struct MoveShape {
  int64_t runs = 0;
  int64_t shortest_run_bytes = 0;  // contiguous on both sides
  int64_t longest_run_bytes = 0;
  int64_t short_run_bytes = 0;  // in runs below kDirectRunBytes
  int64_t witness_runs = 0;
  int64_t witness_bytes = 0;
  int64_t scratch_bytes = 0;         // for the witnesses, aligned
  std::optional<std::string> fault;  // found by FindRunFault
};

// The shape of each move, made and proven once for moves that are alike: the
// layers of a model repeat themselves.
class MoveShapes {
 public:
  explicit MoveShapes(int64_t max_runs) : max_runs_(max_runs) {}
  // `box` lies in the boxes of both maps, which outlive this.
  // kResourceExhausted on more runs than allowed.
  absl::StatusOr<const MoveShape*> Of(const layout::IndexMap& src,
                                      const layout::IndexMap& dst,
                                      const tensor::Box& box,
                                      int64_t item_bytes);

 private:
  struct Key {
    const layout::IndexMap* src = nullptr;
    const layout::IndexMap* dst = nullptr;
    tensor::Box box;
    int64_t item_bytes = 0;
    friend bool operator==(const Key& a, const Key& b) {
      return a.item_bytes == b.item_bytes && a.box == b.box &&
             *a.src == *b.src && *a.dst == *b.dst;
    }
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      for (const layout::IndexMap* map : {key.src, key.dst}) {
        h = H::combine(std::move(h), map->offset_elements());
        for (const layout::DimModes& modes : map->modes()) {
          for (const layout::Mode& mode : modes) {
            h = H::combine(std::move(h), mode.extent, mode.stride);
          }
        }
      }
      for (const tensor::Range& range : key.box.ranges()) {
        h = H::combine(std::move(h), range.begin, range.end);
      }
      return H::combine(std::move(h), key.item_bytes);
    }
  };

  absl::StatusOr<MoveShape> Make(const Key& key) const;

  int64_t max_runs_;
  absl::flat_hash_map<Key, const MoveShape*> known_;
  std::deque<MoveShape> shapes_;
};

// Moves of a series that differ in nothing but the source rank, the position of
// their box and the offset in the destination.
struct AlikeMoves {
  int64_t first = 0;
  int64_t count = 0;
};
absl::InlinedVector<AlikeMoves, 4> ListAlike(const MoveSeries& series,
                                             const layout::IndexMap& dst);

// True when no digest tile has elements of `box` and others of `clip`: a move
// of that box needs no witnesses.
bool IsWholeTiles(const tensor::Box& box, const tensor::Box& clip);

struct SeriesCounts {
  std::vector<PeerTraffic> peers;
  std::vector<ConversionUse> conversions;
  PlanTotals totals;  // without zero_fill_bytes
};

// `plan.series` must be sound (CheckSeries). kResourceExhausted over the
// limits; kInternal with all runs that are not those of their box.
absl::StatusOr<SeriesCounts> CountSeries(const std::vector<MoveSeries>& series,
                                         const SourceTable& sources,
                                         const manifest::Placement& target,
                                         const PlanLimits& limits);

}  // namespace weft::plan

#endif  // WEFT_PLAN_COUNT_SERIES_H_
