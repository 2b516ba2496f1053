#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/run_threads.h"
#include "weft/base/status.h"
#include "weft/session/arrival_check_internal.h"
#include "weft/verify/compare.h"

namespace weft::session {
namespace {

using convert::DigestValue;

// Adds the values of one grid into those of a grid that contains it.
void AddGrid(const tensor::TileGrid& from, absl::Span<const DigestValue> values,
             const tensor::TileGrid& to, absl::Span<DigestValue> sums) {
  if (from.num_tiles == 0) return;
  const size_t rank = from.tiles.size();
  const int64_t row = rank == 0 ? 1 : from.tiles.back().extent();
  absl::InlinedVector<int64_t, 4> tile;
  for (const tensor::Range& range : from.tiles) tile.push_back(range.begin);
  for (int64_t i = 0; i < from.num_tiles; i += row) {
    const DigestValue* const values_of_row = &values[static_cast<size_t>(i)];
    DigestValue* const sums_of_row =
        &sums[static_cast<size_t>(to.IndexOf(tile))];
    for (int64_t k = 0; k < row; ++k) sums_of_row[k] += values_of_row[k];
    for (size_t dim = rank < 1 ? 0 : rank - 1; dim-- > 0;) {
      if (++tile[dim] < from.tiles[dim].end) break;
      tile[dim] = from.tiles[dim].begin;
    }
  }
}

}  // namespace

uint64_t NameHash(const std::string& name) {
  const manifest::LayoutDigest digest = manifest::DigestOf(name);
  uint64_t hash = 0;
  for (int i = 0; i < 8; ++i) hash = hash << 8 | digest.bytes[i];
  return hash;
}

ArrivalCheck::ArrivalCheck(const plan::Plan& plan,
                           const plan::SourceIndex& sources,
                           const manifest::Placement& target,
                           const RankMemory& memory)
    : plan_(plan), sources_(sources), target_(target) {
  for (size_t p = 0; p < plan.peers.size(); ++p) {
    const plan::PeerPlan& peer = plan.peers[p];
    const manifest::Placement& source = SourceOf(peer);
    const verify::TableLayout tables = verify::LayOutTables(source);
    const size_t first_item = items_.size();
    first_item_.push_back(first_item);
    for (size_t m = 0; m < peer.moves.size(); ++m) {
      const plan::Move& move = peer.moves[m];
      const tensor::Box& fragment_box =
          source.stored[move.src_stored].fragments[move.src_fragment].map.box();
      Item item;
      item.peer = p;
      item.move = m;
      item.dst_base = StoredBase(memory, static_cast<size_t>(move.dst_stored));
      item.item_bytes =
          static_cast<int>(tensor::ItemBytes(move.conversion.from));
      item.maps = layout::Restrict(
          target.stored[move.dst_stored].fragments[move.dst_fragment].map,
          move.box);
      item.fragment_box = fragment_box;
      item.move_grid = tensor::TileGrid::Of(move.box);
      item.cover_box = tensor::TileCover(move.box, fragment_box);
      item.cover_grid = tensor::TileGrid::Of(item.cover_box);
      item.name_hash = NameHash(target.tensors[move.tensor].name);
      item.table_begin = tables.first_value[move.src_stored][move.src_fragment];
      item.bytes = move.box.num_elements() * item.item_bytes;
      items_.push_back(std::move(item));
    }
    ranges_.push_back(PlaceInTable(absl::MakeSpan(items_).subspan(first_item)));
    for (size_t w = 0; w < peer.witnesses.size(); ++w) {
      items_[first_item + static_cast<size_t>(peer.witnesses[w].move)]
          .witnesses.push_back(w);
    }
  }
}

// A read costs as much as some thousand values that nobody needs.
std::vector<ArrivalCheck::TableRange> ArrivalCheck::PlaceInTable(
    absl::Span<Item> items) {
  constexpr int64_t kGapValues = 4096;
  std::vector<TableRange> parts;
  for (const Item& item : items) {
    parts.push_back({item.table_begin, EndInTable(item)});
  }
  std::sort(parts.begin(), parts.end(),
            [](const auto& a, const auto& b) { return a.begin < b.begin; });
  std::vector<TableRange> ranges;
  for (const TableRange& part : parts) {
    if (!ranges.empty() && part.begin <= ranges.back().end + kGapValues) {
      ranges.back().end = std::max(ranges.back().end, part.end);
    } else {
      ranges.push_back(part);
    }
  }
  std::vector<int64_t> first;  // of each range, in the table
  int64_t values = 0;
  for (const TableRange& range : ranges) {
    first.push_back(values);
    values += range.end - range.begin;
  }
  for (Item& item : items) {
    const auto after = std::upper_bound(
        ranges.begin(), ranges.end(), item.table_begin,
        [](int64_t at, const TableRange& range) { return at < range.begin; });
    const auto in = static_cast<size_t>(after - ranges.begin()) - 1;
    item.table_begin += first[in] - ranges[in].begin;
  }
  return ranges;
}

int64_t ArrivalCheck::EndInTable(const Item& item) {
  return item.table_begin + tensor::TileGrid::Of(item.fragment_box).num_tiles;
}

const manifest::Placement& ArrivalCheck::SourceOf(
    const plan::PeerPlan& peer) const {
  const auto& sources = sources_.sources();
  return *std::find_if(sources.begin(), sources.end(),
                       [&](const plan::SourceInfo& each) {
                         return each.placement->rank == peer.src_rank;
                       })
              ->placement;
}

void ArrivalCheck::Begin(const convert::Kernels& kernels,
                         const convert::DigestConstants* constants) {
  kernels_ = &kernels;
  constants_ = constants;
  landed_.assign(items_.size(), {});
  checked_.assign(items_.size(), 0);
  early_ = {};
  early_faults_.clear();
}

int64_t ArrivalCheck::TotalBytes() const {
  int64_t bytes = 0;
  for (const Item& item : items_) bytes += item.bytes;
  return bytes;
}

void ArrivalCheck::Landed(size_t peer, size_t move) {
  if (constants_ == nullptr) return;
  const size_t index = first_item_[peer] + move;
  landed_[index] = DigestInPlace(items_[index]);
}

void ArrivalCheck::Digested(size_t peer, size_t move,
                            const execute::Program& program,
                            absl::Span<const DigestValue> table) {
  const size_t index = first_item_[peer] + move;
  if (constants_ == nullptr || !items_[index].witnesses.empty()) return;
  ArrivalResult mine;
  std::string fault = CheckItem(index, program, table, mine);
  checked_[index] = 1;
  const std::lock_guard<std::mutex> lock(early_mutex_);
  early_ += mine;
  if (!fault.empty()) early_faults_.push_back({peer, std::move(fault)});
}

ArrivalCheck::Values ArrivalCheck::DigestInPlace(const Item& item) const {
  Values values(static_cast<size_t>(item.cover_grid.num_tiles));
  for (const layout::IndexMap& map : item.maps) {
    verify::AccumulateTiles(*kernels_, *constants_, map, item.dst_base,
                            item.item_bytes, item.cover_grid,
                            absl::MakeSpan(values));
  }
  return values;
}

void ArrivalCheck::AddWitnesses(const Item& item,
                                const execute::Program& program,
                                Values& values) const {
  for (const size_t w : item.witnesses) {
    const plan::Witness& witness = plan_.peers[item.peer].witnesses[w];
    const auto digested = program.WitnessDigests(item.peer, w);
    if (!digested.empty()) {
      AddGrid(tensor::TileGrid::Of(witness.box), digested, item.cover_grid,
              absl::MakeSpan(values));
      continue;
    }
    const tensor::Shape shape = witness.box.shape();
    const absl::InlinedVector<int64_t, 4> origin(shape.size(), 0);
    const layout::IndexMap map =
        *layout::IndexMap::RowMajor(witness.box, shape, origin);
    verify::AccumulateTiles(
        *kernels_, *constants_, map,
        program.scratch().data() + witness.scratch_offset_bytes,
        item.item_bytes, item.cover_grid, absl::MakeSpan(values));
  }
}

absl::StatusOr<std::vector<verify::TileMismatch>> ArrivalCheck::Compare(
    const Item& item, ValueSpan table, ValueSpan values) const {
  const int64_t fragment_tiles =
      tensor::TileGrid::Of(item.fragment_box).num_tiles;
  return verify::CompareTables(
      item.fragment_box, plan_.peers[item.peer].moves[item.move].box,
      table.subspan(static_cast<size_t>(item.table_begin),
                    static_cast<size_t>(fragment_tiles)),
      values);
}

void ArrivalCheck::Count(const Item& item, ValueSpan values,
                         ArrivalResult& result) const {
  const plan::Move& move = plan_.peers[item.peer].moves[item.move];
  result.tiles_checked += item.cover_grid.num_tiles;
  result.bytes_digested += item.bytes;
  verify::AddToTensorDigest(constants_->seed ^ item.name_hash,
                            target_.tensors[move.tensor].shape, item.cover_box,
                            values, result.digest);
}

std::string ArrivalCheck::CheckItem(size_t index,
                                    const execute::Program& program,
                                    absl::Span<const DigestValue> table,
                                    ArrivalResult& result) {
  const Item& item = items_[index];
  const plan::Move& move = plan_.peers[item.peer].moves[item.move];
  const bool converts = !move.conversion.identity();
  const ValueSpan digested =
      converts ? program.ConvertedDigests(item.peer, item.move)
               : program.LandedDigests(item.peer, item.move);
  // Whole tiles, which nearly all are, are compared where they are.
  const bool as_they_are = item.witnesses.empty() && !digested.empty() &&
                           item.move_grid.tiles == item.cover_grid.tiles;
  Values own = std::move(landed_[index]);
  if (!as_they_are && (converts || !digested.empty())) {
    own.resize(static_cast<size_t>(item.cover_grid.num_tiles));
    AddGrid(item.move_grid, digested, item.cover_grid, absl::MakeSpan(own));
  } else if (!as_they_are && own.empty()) {
    own = DigestInPlace(item);
  }
  // Before the witnesses: what this receiver holds, and nothing else.
  Count(item, as_they_are ? digested : own, result);
  AddWitnesses(item, program, own);
  const absl::StatusOr<std::vector<verify::TileMismatch>> mismatches =
      Compare(item, table, as_they_are ? digested : own);
  if (!mismatches.ok()) return std::string(mismatches.status().message());
  if (mismatches->empty()) return "";
  return verify::DescribeMismatches(target_.tensors[move.tensor].name,
                                    plan_.peers[item.peer].src_rank,
                                    item.cover_grid.num_tiles, *mismatches);
}

bool ArrivalCheck::IsInPlace(const Item& item,
                             const execute::Program& witnesses,
                             absl::Span<const DigestValue> table,
                             ArrivalResult& result) const {
  const plan::Move& move = plan_.peers[item.peer].moves[item.move];
  if (!move.conversion.identity()) return false;
  const Values held = DigestInPlace(item);
  Values completed = held;
  AddWitnesses(item, witnesses, completed);
  const absl::StatusOr<std::vector<verify::TileMismatch>> mismatches =
      Compare(item, table, completed);
  if (!mismatches.ok() || !mismatches->empty()) return false;
  Count(item, held, result);
  return true;
}

ArrivalCheck::Sieve ArrivalCheck::FindInPlace(const execute::Program& witnesses,
                                              absl::Span<const Values> tables,
                                              int num_threads) {
  std::mutex mutex;
  Sieve sieve;
  sieve.in_place.resize(items_.size(), 0);
  std::atomic<size_t> next{0};
  base::RunThreads(num_threads, items_.size(), [&] {
    ArrivalResult mine;
    for (size_t i = next++; i < items_.size(); i = next++) {
      const Item& item = items_[i];
      sieve.in_place[i] =
          IsInPlace(item, witnesses, tables[item.peer], mine) ? 1 : 0;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    sieve.result += mine;
  });
  for (size_t i = 0; i < items_.size(); ++i) {
    if (sieve.in_place[i] != 0) sieve.bytes_in_place += items_[i].bytes;
  }
  return sieve;
}

absl::StatusOr<ArrivalResult> ArrivalCheck::Run(const execute::Program& program,
                                                absl::Span<const Values> tables,
                                                int num_threads) {
  std::mutex mutex;
  base::FaultList faults;
  ArrivalResult result = early_;
  failed_peers_.clear();
  for (const Fault& fault : early_faults_) {
    faults.Add(fault.text);
    failed_peers_.insert(fault.peer);
  }
  std::atomic<size_t> next{0};
  const auto work = [&] {
    ArrivalResult mine;
    while (true) {
      const size_t i = next.fetch_add(1);
      if (i >= items_.size()) break;
      if (checked_[i] != 0) continue;
      const std::string fault =
          CheckItem(i, program, tables[items_[i].peer], mine);
      if (fault.empty()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      faults.Add(fault);
      failed_peers_.insert(items_[i].peer);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    result += mine;
  };
  const auto left = static_cast<size_t>(
      std::count(checked_.begin(), checked_.end(), uint8_t{0}));
  base::RunThreads(num_threads, left, work);
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kDataLoss));
  return result;
}

}  // namespace weft::session
