// Digests of what arrived, against what the publishers printed.
#ifndef WEFT_SESSION_ARRIVAL_CHECK_INTERNAL_H_
#define WEFT_SESSION_ARRIVAL_CHECK_INTERNAL_H_

#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/convert/digest.h"
#include "weft/convert/kernel.h"
#include "weft/execute/executor.h"
#include "weft/plan/plan.h"
#include "weft/session/memory_area.h"
#include "weft/verify/compare.h"
#include "weft/verify/digest_table.h"

namespace weft::session {

// So that two tensors of one shape that change places change the sum.
uint64_t NameHash(const std::string& name);

struct ArrivalResult {
  int64_t tiles_checked = 0;
  int64_t bytes_digested = 0;
  convert::DigestValue digest;  // weighted sum over all tiles received

  ArrivalResult& operator+=(const ArrivalResult& more) {
    tiles_checked += more.tiles_checked;
    bytes_digested += more.bytes_digested;
    digest += more.digest;
    return *this;
  }
};

// Prepared once a plan: which index maps to walk, where each fragment's table
// lies in its rank's table area.
class ArrivalCheck {
 public:
  // `sources` and `target` must outlive it.
  ArrivalCheck(const plan::Plan& plan, const plan::SourceIndex& sources,
               const manifest::Placement& target, const RankMemory& memory);

  // The parts of a peer's table area that are compared, half-open in
  // DigestValues, ascending: one after another they are that peer's table. By
  // peer of the plan.
  struct TableRange {
    int64_t begin = 0;
    int64_t end = 0;
  };
  const std::vector<std::vector<TableRange>>& table_ranges() const {
    return ranges_;
  }

  // Forgets the last arrival. `kernels` and `constants` must live until Run
  // has returned; null constants: nothing is digested.
  void Begin(const convert::Kernels& kernels,
             const convert::DigestConstants* constants);
  // All bytes of this move are in place: digests it. From any thread, for
  // different moves at the same time, between Begin and Run.
  void Landed(size_t peer, size_t move);
  // `program` has digested this move: compares it with the table of its source
  // now. A move that is completed by witnesses is left to Run. As Landed.
  void Digested(size_t peer, size_t move, const execute::Program& program,
                absl::Span<const convert::DigestValue> table);

  // That a move brings, before its conversion; and all of them.
  int64_t BytesOf(size_t peer, size_t move) const {
    return items_[first_item_[peer] + move].bytes;
  }
  int64_t TotalBytes() const;

  // Instead of an arrival: for each move, in the plan's order, whether the
  // destination holds what the tables say already. `witnesses` has read those
  // of the plan. Moves that convert never do: what they were made of cannot be
  // told from the result. The result is of the moves that do.
  struct Sieve {
    std::vector<uint8_t> in_place;
    ArrivalResult result;
    int64_t bytes_in_place = 0;
  };
  Sieve FindInPlace(const execute::Program& witnesses,
                    absl::Span<const std::vector<convert::DigestValue>> tables,
                    int num_threads);

  // Digests the received boxes that have not been digested where they lie now,
  // adds the witnesses, and compares tile by tile. `tables[p]` holds
  // table_ranges()[p] of peer p. kDataLoss with every tensor that differs.
  absl::StatusOr<ArrivalResult> Run(
      const execute::Program& program,
      absl::Span<const std::vector<convert::DigestValue>> tables,
      int num_threads);
  // Peers of the plan that the last Run found to differ.
  const std::set<size_t>& failed_peers() const { return failed_peers_; }

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
    int64_t table_begin = 0;      // within the peer's table
    std::vector<size_t> witnesses;
    int64_t bytes = 0;
  };
  struct Fault {
    size_t peer = 0;
    std::string text;
  };
  // Of one peer, whose table_begin is in its area so far: the ranges that they
  // need; moves table_begin into the table that those make.
  static std::vector<TableRange> PlaceInTable(absl::Span<Item> items);
  static int64_t EndInTable(const Item& item);
  const manifest::Placement& SourceOf(const plan::PeerPlan& peer) const;
  using Values = std::vector<convert::DigestValue>;
  // Of what lies at the destination: the tiles that the move touches, over the
  // cover grid.
  Values DigestInPlace(const Item& item) const;
  void AddWitnesses(const Item& item, const execute::Program& program,
                    Values& values) const;
  using ValueSpan = absl::Span<const convert::DigestValue>;
  // `values` with its witnesses, against `table` of its source.
  absl::StatusOr<std::vector<verify::TileMismatch>> Compare(
      const Item& item, ValueSpan table, ValueSpan values) const;
  // Adds the item, whose digests are `values`, to `result`.
  void Count(const Item& item, ValueSpan values, ArrivalResult& result) const;
  // Whether the tables say of the item what lies in place; adds to `result`.
  bool IsInPlace(const Item& item, const execute::Program& witnesses,
                 absl::Span<const convert::DigestValue> table,
                 ArrivalResult& result) const;
  // Adds to `result`; returns what differs, or "".
  std::string CheckItem(size_t index, const execute::Program& program,
                        absl::Span<const convert::DigestValue> table,
                        ArrivalResult& result);

  const plan::Plan& plan_;
  const plan::SourceIndex& sources_;
  const manifest::Placement& target_;
  std::vector<Item> items_;
  std::vector<size_t> first_item_;  // by peer
  // Of the arrival that is checked now.
  const convert::Kernels* kernels_ = nullptr;
  const convert::DigestConstants* constants_ = nullptr;
  std::vector<Values> landed_;    // by item; empty = not digested yet
  std::vector<uint8_t> checked_;  // by item: before Run
  std::mutex early_mutex_;
  ArrivalResult early_;  // of those
  std::vector<Fault> early_faults_;
  std::vector<std::vector<TableRange>> ranges_;
  std::set<size_t> failed_peers_;
};

}  // namespace weft::session

#endif  // WEFT_SESSION_ARRIVAL_CHECK_INTERNAL_H_
