// Digests of what arrived, against what the publishers printed.
#ifndef WEFT_SESSION_ARRIVAL_CHECK_INTERNAL_H_
#define WEFT_SESSION_ARRIVAL_CHECK_INTERNAL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/execute/executor.h"
#include "weft/plan/plan.h"
#include "weft/session/memory_area.h"
#include "weft/verify/digest_table.h"

namespace weft::session {

struct ArrivalResult {
  int64_t tiles_checked = 0;
  int64_t bytes_digested = 0;
  convert::DigestValue digest;  // weighted sum over all tiles received
};

// Prepared once a plan: which index maps to walk, where each fragment's table
// lies in its rank's table area.
class ArrivalCheck {
 public:
  // `sources` and `target` must outlive it.
  ArrivalCheck(const plan::Plan& plan, const plan::SourceIndex& sources,
               const manifest::Placement& target, const RankMemory& memory);

  // The part of peer `peer_index`'s table area that is compared, half-open in
  // DigestValues. Read it from the peer into Tables()[peer_index].
  struct TableRange {
    int64_t begin = 0;
    int64_t end = 0;
  };
  const std::vector<TableRange>& table_ranges() const { return ranges_; }

  // Digests the received boxes where they lie now, adds the witnesses, and
  // compares tile by tile. `tables[p]` holds table_ranges()[p] of peer p.
  // kDataLoss with every tensor that differs.
  absl::StatusOr<ArrivalResult> Run(
      const convert::Kernels& kernels,
      const convert::DigestConstants& constants,
      const execute::Program& program,
      absl::Span<const std::vector<convert::DigestValue>> tables,
      int num_threads) const;

 private:
  struct Item {  // one move
    size_t peer = 0;
    size_t move = 0;
    const std::byte* dst_base = nullptr;
    int item_bytes = 0;
    std::vector<layout::IndexMap> maps;  // destination, cut to the move's box
    tensor::Box fragment_box;
    tensor::TileGrid move_grid;  // over the move's box
    tensor::Box cover_box;
    uint64_t name_hash = 0;
    tensor::TileGrid cover_grid;  // over TileCover(move box, fragment box)
    int64_t table_begin = 0;      // within the peer's TableRange
    std::vector<size_t> witnesses;
    int64_t bytes = 0;
  };
  const manifest::Placement& SourceOf(const plan::PeerPlan& peer) const;
  struct ItemDigest {
    // Tiles that the move touches, over the cover grid, witnesses included.
    std::vector<convert::DigestValue> values;
    convert::DigestValue received;  // weighted sum without the witnesses
  };
  ItemDigest DigestItem(const Item& item, const convert::Kernels& kernels,
                        const convert::DigestConstants& constants,
                        const execute::Program& program) const;

  const plan::Plan& plan_;
  const plan::SourceIndex& sources_;
  const manifest::Placement& target_;
  std::vector<Item> items_;
  std::vector<TableRange> ranges_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_ARRIVAL_CHECK_INTERNAL_H_
