#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/execute/binding_internal.h"
#include "weft/tensor/dtype.h"

namespace weft::execute {
namespace {

constexpr int64_t kMinStagingBytes = 4096;

struct ElementRange {
  int64_t end = 0;       // one past the last element touched
  int64_t elements = 0;  // product of the extents
};

// The elements that one side of a run touches, or nullopt when an offset or a
// product does not fit int64 or is negative.
std::optional<ElementRange> RangeOf(const layout::Run& run, bool src_side) {
  ElementRange range;
  range.end = src_side ? run.src_offset : run.dst_offset;
  range.elements = 1;
  if (range.end < 0) return std::nullopt;
  for (const layout::RunMode& mode : run.modes) {
    const int64_t stride = src_side ? mode.src_stride : mode.dst_stride;
    if (mode.extent < 1 || stride < 0) return std::nullopt;
    const auto reach = base::CheckedMul(mode.extent - 1, stride);
    const auto end = reach ? base::CheckedAdd(range.end, *reach) : reach;
    const auto elements = base::CheckedMul(range.elements, mode.extent);
    if (!end || !elements) return std::nullopt;
    range = {*end, *elements};
  }
  const auto end = base::CheckedAdd(range.end, 1);
  if (!end) return std::nullopt;
  range.end = *end;
  return range;
}

bool WritesTwice(const layout::Run& run) {
  return std::any_of(run.modes.begin(), run.modes.end(),
                     [](const layout::RunMode& mode) {
                       return mode.dst_stride == 0 && mode.extent > 1;
                     });
}

std::optional<int64_t> StoredBytes(const layout::StoredTensor& stored) {
  std::optional<int64_t> bytes = tensor::ItemBytes(stored.dtype);
  for (const int64_t extent : stored.shape) {
    bytes = base::CheckedMul(*bytes, extent);
    if (!bytes || *bytes < 0) return std::nullopt;
  }
  return bytes;
}

// One end of a move: a stored tensor and the memory that holds it.
struct End {
  const layout::StoredTensor* stored = nullptr;
  int64_t bytes = 0;
};

class Binder {
 public:
  explicit Binder(const BindInputs& inputs) : in_(inputs) {}

  absl::StatusOr<Binding> Bind() {
    binding_.direction = in_.direction;
    CheckOptions();
    for (size_t p = 0; p < in_.plan.peers.size(); ++p) {
      if (pull() || in_.plan.peers[p].src_rank == in_.src_rank) BindPeer(p);
    }
    if (pull()) CheckZeroFills();
    if (!faults_.empty()) {
      return faults_.ToStatus(only_range_faults_
                                  ? absl::StatusCode::kOutOfRange
                                  : absl::StatusCode::kInvalidArgument);
    }
    WEFT_RETURN_IF_ERROR(AllocateScratch());
    return std::move(binding_);
  }

 private:
  bool pull() const { return in_.direction == Direction::kPull; }
  bool on_device() const { return in_.device != memory::kHostMemory; }
  // Whether the present peer's transport brings bytes into memory of a GPU.
  bool CanPost() const {
    return pull() && remote_->transport != nullptr &&
           remote_->transport->capabilities().device_memory;
  }
  void Fault(std::string text) {
    only_range_faults_ = false;
    faults_.Add(std::move(text));
  }
  void RangeFault(std::string text) { faults_.Add(std::move(text)); }

  void CheckOptions() {
    if (in_.options.num_threads < 1) {
      Fault(absl::StrCat("num_threads is ", in_.options.num_threads,
                         ", must be at least 1"));
    }
    if (in_.options.window < 1) {
      Fault(absl::StrCat("window is ", in_.options.window,
                         ", must be at least 1"));
    }
    if (in_.options.staging_bytes < kMinStagingBytes) {
      Fault(absl::StrCat("staging_bytes is ", in_.options.staging_bytes,
                         ", must be at least ", kMinStagingBytes));
    }
  }

  const manifest::Placement* SourceOf(int64_t rank) const {
    for (const plan::SourceInfo& source : in_.sources.sources()) {
      if (source.placement != nullptr && source.placement->rank == rank) {
        return source.placement;
      }
    }
    return nullptr;
  }

  const RemoteRank* RemoteOf(int64_t rank) const {
    for (const RemoteRank& remote : in_.remotes) {
      if (remote.rank == rank) return &remote;
    }
    return nullptr;
  }

  void BindPeer(size_t plan_peer) {
    const plan::PeerPlan& peer = in_.plan.peers[plan_peer];
    source_ = SourceOf(peer.src_rank);
    const int64_t far_rank = pull() ? peer.src_rank : in_.plan.target_rank;
    remote_ = RemoteOf(far_rank);
    if (source_ == nullptr) {
      Fault(absl::StrCat("source rank ", peer.src_rank,
                         " of the plan is not in the source index"));
    }
    if (remote_ == nullptr || remote_->peer == nullptr) {
      Fault(absl::StrCat("rank ", far_rank,
                         " of the plan has no connected peer"));
    }
    if (source_ == nullptr || remote_ == nullptr || remote_->peer == nullptr) {
      return;
    }
    where_ = absl::StrCat("source rank ", peer.src_rank);
    binding_.peers.push_back(
        {far_rank, plan_peer, remote_->peer, remote_->transport, 0});
    for (size_t m = 0; m < peer.moves.size(); ++m) {
      BindMove(peer.moves[m], plan_peer, m);
    }
    if (!pull()) return;
    for (size_t w = 0; w < peer.witnesses.size(); ++w) {
      BindWitness(peer, w);
    }
  }

  // nullptr and a fault when the index is bad or the tensor's size overflows.
  std::optional<End> EndOf(const manifest::Placement& placement, int32_t index,
                           std::string_view side) {
    if (index < 0 || index >= static_cast<int64_t>(placement.stored.size())) {
      Fault(absl::StrCat(where_, ": ", std::string(side), " stored index ",
                         index, " is not below ", placement.stored.size()));
      return std::nullopt;
    }
    const layout::StoredTensor& stored = placement.stored[index];
    const std::optional<int64_t> bytes = StoredBytes(stored);
    if (!bytes) {
      Fault(absl::StrCat(where_, ": the size of \"", stored.name,
                         "\" does not fit int64"));
      return std::nullopt;
    }
    return End{&stored, *bytes};
  }

  // Fills the near side; false and a fault when the memory is too small.
  bool BindNear(int32_t index, const End& end, BoundMove& bound) {
    if (index >= static_cast<int64_t>(in_.local.size())) {
      Fault(absl::StrCat(where_, ": no local memory is given for \"",
                         end.stored->name, "\", stored index ", index, " of ",
                         in_.local.size()));
      return false;
    }
    const LocalStored& local = in_.local[index];
    if (end.bytes > 0 && local.base == nullptr) {
      Fault(absl::StrCat(where_, ": local memory of \"", end.stored->name,
                         "\" is null"));
      return false;
    }
    if (local.size_bytes < end.bytes) {
      RangeFault(absl::StrCat(where_, ": local memory of \"", end.stored->name,
                              "\" has ", local.size_bytes, " bytes, needs ",
                              end.bytes));
      return false;
    }
    if (local.region != nullptr) {
      const absl::Span<std::byte> memory = local.region->memory();
      if (local.base < memory.data() ||
          local.base + end.bytes > memory.data() + memory.size()) {
        RangeFault(absl::StrCat(where_, ": \"", end.stored->name,
                                "\" does not lie in the registration given "
                                "for it"));
        return false;
      }
    }
    bound.near = local.base;
    bound.near_region = local.region;
    return true;
  }

  bool BindFar(int32_t index, const End& end, BoundMove& bound) {
    if (index >= static_cast<int64_t>(remote_->stored.size()) ||
        remote_->stored[index].region == nullptr) {
      Fault(absl::StrCat(where_, ": rank ", remote_->rank,
                         " has no imported region for \"", end.stored->name,
                         "\", stored index ", index));
      return false;
    }
    const RemoteStored& remote = remote_->stored[index];
    const auto remote_end = base::CheckedAdd(remote.offset_bytes, end.bytes);
    if (remote.offset_bytes < 0 || !remote_end ||
        *remote_end > remote.region->size_bytes()) {
      RangeFault(absl::StrCat(
          where_, ": \"", end.stored->name, "\" needs ", end.bytes,
          " bytes at offset ", remote.offset_bytes, " of a region of ",
          remote.region->size_bytes(), " bytes at rank ", remote_->rank));
      return false;
    }
    bound.far_region = remote.region;
    bound.far_offset_bytes = remote.offset_bytes;
    if (remote.region->mapped() != nullptr) {
      bound.far_mapped = remote.region->mapped() + remote.offset_bytes;
    }
    const bool posted = bound.far_mapped == nullptr;
    const bool mapped_elsewhere =
        remote.region->device() != memory::kHostMemory &&
        remote.region->device() != in_.device;
    if (on_device() && posted && !CanPost()) {
      Fault(absl::StrCat(
          where_, ": \"", end.stored->name, "\" of rank ", remote_->rank,
          " is not mapped for GPU ", in_.device, ", and ",
          pull() ? "its transport does not post into memory of a GPU"
                 : "a GPU pushes only to memory that is"));
      return false;
    }
    if (on_device() && !posted && mapped_elsewhere) {
      Fault(absl::StrCat(where_,
                         ": "
                         ", end.stored->name, "
                         " of rank ",
                         remote_->rank, " is not mapped for GPU ", in_.device));
      return false;
    }
    return true;
  }

  bool CheckDTypes(const plan::Move& move, const End& src, const End& dst) {
    if (move.conversion.from != src.stored->dtype ||
        move.conversion.to != dst.stored->dtype) {
      Fault(absl::StrCat(where_, ": conversion ",
                         tensor::ToString(move.conversion), " does not fit \"",
                         src.stored->name, "\" of ",
                         std::string(tensor::DTypeName(src.stored->dtype)),
                         " and \"", dst.stored->name, "\" of ",
                         std::string(tensor::DTypeName(dst.stored->dtype))));
      return false;
    }
    const absl::Status supported = tensor::CheckSupported(move.conversion);
    if (!supported.ok()) Fault(std::string(supported.message()));
    return supported.ok();
  }

  // Every run inside both ends, checked in elements. Returns the number of
  // elements that the runs copy.
  int64_t CheckRuns(const std::vector<layout::Run>& runs, std::string_view name,
                    int64_t src_elements, int64_t dst_elements) {
    int64_t elements = 0;
    for (const layout::Run& run : runs) {
      const auto src = RangeOf(run, true);
      const auto dst = RangeOf(run, false);
      const auto sum =
          src ? base::CheckedAdd(elements, src->elements) : std::nullopt;
      if (!src || !dst || !sum || *sum > (int64_t{1} << 59) ||
          WritesTwice(run)) {
        Fault(absl::StrCat(where_, ": tensor \"", std::string(name),
                           "\" has a malformed run ", run.ToString()));
        continue;
      }
      elements = *sum;
      if (src->end > src_elements || dst->end > dst_elements) {
        RangeFault(absl::StrCat(where_, ": tensor \"", std::string(name),
                                "\": run ", run.ToString(),
                                " reaches source element ", src->end, " of ",
                                src_elements, " and destination element ",
                                dst->end, " of ", dst_elements));
      }
    }
    return elements;
  }

  // The two index maps of a converting move, for its digest.
  bool BindMaps(const plan::Move& move, const End& src, const End& dst,
                BoundMove& bound) {
    const auto has = [](const End& end, int32_t index) {
      return index >= 0 &&
             index < static_cast<int64_t>(end.stored->fragments.size());
    };
    if (!has(src, move.src_fragment) || !has(dst, move.dst_fragment)) {
      Fault(absl::StrCat(where_, ": fragments ", move.src_fragment, " of \"",
                         src.stored->name, "\" and ", move.dst_fragment,
                         " of \"", dst.stored->name, "\" do not both exist"));
      return false;
    }
    bound.src_map = &src.stored->fragments[move.src_fragment].map;
    bound.dst_map = &dst.stored->fragments[move.dst_fragment].map;
    bound.box = move.box;
    const bool ranks_agree = bound.src_map->box().rank() == move.box.rank() &&
                             bound.dst_map->box().rank() == move.box.rank();
    if (!ranks_agree || !tensor::Contains(bound.src_map->box(), move.box) ||
        !tensor::Contains(bound.dst_map->box(), move.box)) {
      Fault(absl::StrCat(where_, ": box ", move.box.ToString(),
                         " of a move is not inside its fragments of \"",
                         src.stored->name, "\" and \"", dst.stored->name,
                         "\""));
      return false;
    }
    return true;
  }

  void BindMove(const plan::Move& move, size_t plan_peer, size_t index) {
    const auto src = EndOf(*source_, move.src_stored, "source");
    const auto dst = EndOf(in_.target, move.dst_stored, "destination");
    if (!src || !dst) return;
    if (move.tensor < 0 ||
        move.tensor >= static_cast<int64_t>(in_.target.tensors.size())) {
      Fault(absl::StrCat(where_, ": tensor index ", move.tensor,
                         " is not below ", in_.target.tensors.size()));
      return;
    }
    BoundMove bound;
    bound.peer = static_cast<int32_t>(binding_.peers.size()) - 1;
    bound.plan_move = static_cast<int32_t>(index);
    bound.tensor_name = in_.target.tensors[move.tensor].name;
    bound.conversion = move.conversion;
    bound.runs = &move.runs;
    bool ok = CheckDTypes(move, *src, *dst);
    if (pull()) {
      ok &= BindNear(move.dst_stored, *dst, bound);
      ok &= BindFar(move.src_stored, *src, bound);
    } else {
      ok &= BindNear(move.src_stored, *src, bound);
      ok &= BindFar(move.dst_stored, *dst, bound);
    }
    if (!ok) return;
    if (on_device() && !BindMaps(move, *src, *dst, bound)) return;
    if (!move.conversion.identity()) {
      if (!BindMaps(move, *src, *dst, bound)) return;
      bound.converted_table = static_cast<int32_t>(binding_.converted.size());
      binding_.converted.push_back({plan_peer, index});
    }
    const int64_t src_item = tensor::ItemBytes(move.conversion.from);
    const int64_t dst_item = tensor::ItemBytes(move.conversion.to);
    const int64_t elements =
        CheckRuns(move.runs, bound.tensor_name, src->bytes / src_item,
                  dst->bytes / dst_item);
    if (elements != move.box.num_elements()) {
      Fault(absl::StrCat(where_, ": tensor \"", std::string(bound.tensor_name),
                         "\": the runs copy ", elements, " elements, the box ",
                         move.box.ToString(), " has ",
                         move.box.num_elements()));
    }
    Add(std::move(bound), elements);
  }

  void BindWitness(const plan::PeerPlan& peer, size_t index) {
    const plan::Witness& witness = peer.witnesses[index];
    if (witness.move < 0 ||
        witness.move >= static_cast<int64_t>(peer.moves.size())) {
      Fault(absl::StrCat(where_, ": a witness names move ", witness.move,
                         " of ", peer.moves.size()));
      return;
    }
    const plan::Move& move = peer.moves[witness.move];
    const auto src = EndOf(*source_, move.src_stored, "source");
    BoundMove bound;
    if (!src || !BindFar(move.src_stored, *src, bound)) return;
    if (move.tensor < 0 ||
        move.tensor >= static_cast<int64_t>(in_.target.tensors.size())) {
      return;  // the move itself has reported it
    }
    const tensor::DType dtype = src->stored->dtype;
    const int64_t item = tensor::ItemBytes(dtype);
    const int64_t block = witness.box.num_elements();
    const auto bytes = base::CheckedMul(block, item);
    const auto end =
        bytes && witness.scratch_offset_bytes >= 0
            ? base::CheckedAdd(witness.scratch_offset_bytes, *bytes)
            : std::nullopt;
    if (!end || *end > in_.plan.totals.scratch_bytes) {
      RangeFault(absl::StrCat(
          where_, ": witness ", witness.box.ToString(), " at scratch offset ",
          witness.scratch_offset_bytes, " does not fit scratch of ",
          in_.plan.totals.scratch_bytes, " bytes"));
      return;
    }
    bound.peer = static_cast<int32_t>(binding_.peers.size()) - 1;
    bound.witness = true;
    bound.plan_witness = static_cast<int32_t>(index);
    bound.box = witness.box;
    bound.tensor_name = in_.target.tensors[move.tensor].name;
    bound.conversion = {dtype, dtype};
    bound.runs = &witness.runs;
    const int64_t elements =
        CheckRuns(witness.runs, bound.tensor_name, src->bytes / item, block);
    scratch_of_move_.push_back(
        {binding_.moves.size(), witness.scratch_offset_bytes});
    Add(std::move(bound), elements);
  }

  void Add(BoundMove bound, int64_t elements) {
    bound.src_bytes = elements * tensor::ItemBytes(bound.conversion.from);
    bound.dst_bytes = elements * tensor::ItemBytes(bound.conversion.to);
    binding_.peers[bound.peer].total_bytes += bound.dst_bytes;
    binding_.moves.push_back(std::move(bound));
  }

  void CheckZeroFills() {
    for (const plan::ZeroFill& fill : in_.plan.zero_fills) {
      where_ = "zero fill";
      const auto dst = EndOf(in_.target, fill.dst_stored, "destination");
      BoundMove unused;
      if (!dst || !BindNear(fill.dst_stored, *dst, unused)) continue;
      const auto shape = tensor::Box::OfShape(dst->stored->shape);
      if (!shape.ok() || shape->rank() != fill.box.rank() ||
          !tensor::Contains(*shape, fill.box)) {
        RangeFault(absl::StrCat("zero fill ", fill.box.ToString(),
                                " is not inside \"", dst->stored->name,
                                "\" of shape ",
                                tensor::ShapeToString(dst->stored->shape)));
      }
    }
  }

  absl::Status AllocateScratch() {
    if (!pull() || in_.plan.totals.scratch_bytes <= 0) {
      return absl::OkStatus();
    }
    binding_.scratch_bytes = in_.plan.totals.scratch_bytes;
    std::byte* scratch = nullptr;
    if (on_device()) {
      WEFT_ASSIGN_OR_RETURN(
          binding_.device_scratch,
          memory::DeviceBuffer::Allocate(*in_.options.device.driver, in_.device,
                                         binding_.scratch_bytes));
      scratch = binding_.device_scratch->data();
    } else {
      WEFT_ASSIGN_OR_RETURN(binding_.scratch,
                            memory::Buffer::Allocate(memory::MemoryKind::kHost,
                                                     binding_.scratch_bytes));
      scratch = binding_.scratch->data();
    }
    for (const auto& [move, offset_bytes] : scratch_of_move_) {
      binding_.moves[move].near = scratch + offset_bytes;
    }
    return absl::OkStatus();
  }

  const BindInputs& in_;
  Binding binding_;
  base::FaultList faults_;
  bool only_range_faults_ = true;
  const manifest::Placement* source_ = nullptr;
  const RemoteRank* remote_ = nullptr;
  std::string where_;
  std::vector<std::pair<size_t, int64_t>> scratch_of_move_;
};

}  // namespace

absl::StatusOr<Binding> BindMemory(const BindInputs& inputs) {
  return Binder(inputs).Bind();
}

}  // namespace weft::execute
