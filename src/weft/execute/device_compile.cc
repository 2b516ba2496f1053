// What a program of a GPU consists of: batches of copies and digests.
#include <algorithm>
#include <utility>

#include "weft/base/status.h"
#include "weft/execute/device_program_internal.h"
#include "weft/execute/far_run_internal.h"
#include "weft/execute/planes.h"
#include "weft/layout/index_map.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"

namespace weft::execute {
namespace {

namespace cuda = convert::cuda;

// What is digested while the next batch is copied: long beside the cost of a
// launch (some 50 us), and the last one short beside a refit.
constexpr int64_t kLargestBatchBytes = int64_t{1} << 30;
constexpr int64_t kSmallestBatchBytes = int64_t{64} << 20;
// A batch is so much of what is left.
constexpr int64_t kBatchesLeft = 4;
// Contiguous copies are left to the copy engines whatever they cost, half a
// microsecond each: kernels wait until the digests of the batch before have
// left the multiprocessors. Unless a move has more of them than this and they
// are short.
constexpr size_t kFewRuns = 4;
constexpr int64_t kLeastLineBytes = 1024;
// A source of zeros of any item size.
constexpr int64_t kZeroBytes = 64;

}  // namespace

// Turns bound moves into the batches' programs.
class DeviceProgram::Compiler {
 public:
  Compiler(DeviceProgram& program, const BindInputs& inputs)
      : program_(program), in_(inputs) {
    for (const BoundMove& move : program.binding_.moves) {
      if (move.far_mapped == nullptr) {
        posted_.push_back(&move);
        continue;
      }
      left_bytes_ += move.dst_bytes;
      in_order_.push_back(&move);
    }
    is_small_ = left_bytes_ <= inputs.options.device.small_plan_bytes;
    std::stable_sort(in_order_.begin(), in_order_.end(),
                     [](const BoundMove* a, const BoundMove* b) {
                       return a->dst_bytes > b->dst_bytes;
                     });
  }

  absl::Status Compile() {
    if (pull()) WEFT_RETURN_IF_ERROR(AddZeroFills());
    for (const BoundMove* const move : in_order_) {
      AddCopies(*move);
      if (pull()) WEFT_RETURN_IF_ERROR(AddDigest(*move));
      bytes_ += move->dst_bytes;
      if (bytes_ >= BatchBytes()) WEFT_RETURN_IF_ERROR(CloseBatch());
    }
    WEFT_RETURN_IF_ERROR(CloseBatch());
    return AddPosted();
  }

 private:
  bool pull() const { return in_.direction == Direction::kPull; }
  int64_t BatchBytes() const {
    return std::clamp(left_bytes_ / kBatchesLeft, kSmallestBatchBytes,
                      kLargestBatchBytes);
  }
  const std::byte* SrcOf(const BoundMove& move) const {
    return pull() ? move.far_mapped : move.near;
  }
  std::byte* DstOf(const BoundMove& move) const {
    return pull() ? move.near : move.far_mapped;
  }

  // What operations bring is copied by nobody here, and digested at the end.
  absl::Status AddPosted() {
    for (const BoundMove* const move : posted_) {
      if (move->converted_table < 0) {
        WEFT_RETURN_IF_ERROR(AddDigest(*move));
        continue;
      }
      const DigestName name{program_.binding_.peers[move->peer].plan_peer,
                            static_cast<size_t>(move->plan_move), false};
      program_.digests_[name].posted_table = move->converted_table;
      posted_names_.push_back({name.peer, name.index});
    }
    if (posted_.empty()) return absl::OkStatus();
    Batch batch;
    batch.posted = true;
    batch.moves = std::move(posted_names_);
    WEFT_RETURN_IF_ERROR(BuildBatch(batch));
    program_.batches_.push_back(std::move(batch));
    return absl::OkStatus();
  }

  void AddCopies(const BoundMove& move) {
    // A converted value is digested as it is read: afterwards it is gone.
    if (pull() && move.converted_table >= 0) return;
    for (const layout::Run& run : *move.runs) {
      // Both ends are addresses to the GPU: "far" is the source here.
      const FarRun bytes =
          MakeFarRun(run, move.conversion, Direction::kPull, 0, 0);
      cuda::Copy copy;
      copy.copy = MakeCopy(bytes, move.conversion, Direction::kPull);
      copy.copy.src = SrcOf(move) + bytes.far_offset_bytes;
      copy.copy.dst = DstOf(move) + bytes.near_offset_bytes;
      const bool is_line =
          !is_small_ && move.conversion.identity() &&
          run.contiguous_elements() == run.num_elements() &&
          (move.runs->size() <= kFewRuns ||
           run.num_elements() * tensor::ItemBytes(move.conversion.to) >=
               kLeastLineBytes);
      (is_line ? lines_ : copies_).copies.push_back(std::move(copy));
    }
  }

  // A table of digests over the tiles of `box`: in the program of the copies
  // for what converts, else in the one that follows it.
  absl::Status AddDigest(const BoundMove& move) {
    const tensor::TileGrid grid = tensor::TileGrid::Of(move.box);
    const bool converts = move.converted_table >= 0;
    const bool in_copies =
        converts || (is_small_ && move.far_mapped != nullptr);
    cuda::ProgramSpec& spec = in_copies ? copies_ : digests_;
    names_.push_back({{program_.binding_.peers[move.peer].plan_peer,
                       static_cast<size_t>(move.witness ? move.plan_witness
                                                        : move.plan_move),
                       move.witness},
                      spec.num_values,
                      grid.num_tiles,
                      in_copies});
    if (converts) {
      AddConvertedPlanes(move, grid, spec.num_values);
    } else {
      layout::IndexMap block;
      if (move.witness) {
        const tensor::Shape shape = move.box.shape();
        const tensor::Shape origin(shape.size(), 0);
        WEFT_ASSIGN_OR_RETURN(
            block, layout::IndexMap::RowMajor(move.box, shape, origin));
      }
      AppendDigests(move.box, move.witness ? block : *move.dst_map, move.near,
                    static_cast<int>(tensor::ItemBytes(move.conversion.to)),
                    grid, spec.num_values, spec.digests);
    }
    spec.num_values += grid.num_tiles;
    program_.num_values_ += grid.num_tiles;
    return absl::OkStatus();
  }

  void AddConvertedPlanes(const BoundMove& move, const tensor::TileGrid& grid,
                          int64_t first_value) {
    const int64_t src_item = tensor::ItemBytes(move.conversion.from);
    const int64_t dst_item = tensor::ItemBytes(move.conversion.to);
    const layout::IndexMap* const maps[] = {move.src_map, move.dst_map};
    ForEachPlane(move.box, maps, [&](const Plane& plane) {
      cuda::Copy copy;
      copy.copy.src = SrcOf(move) + plane.offset[0] * src_item;
      copy.copy.dst = DstOf(move) + plane.offset[1] * dst_item;
      copy.copy.conversion = move.conversion;
      copy.copy.modes = {{plane.rows, plane.row_stride[0] * src_item,
                          plane.row_stride[1] * dst_item},
                         {plane.cols, plane.col_stride[0] * src_item,
                          plane.col_stride[1] * dst_item}};
      copy.source_digest = PlaceOf(plane, grid, first_value);
      copies_.copies.push_back(std::move(copy));
    });
  }

  absl::Status AddZeroFills() {
    for (const plan::ZeroFill& fill : in_.plan.zero_fills) {
      const LocalStored& local = in_.local[fill.dst_stored];
      if (local.device == memory::kHostMemory || fill.box.empty()) continue;
      const layout::StoredTensor& stored = in_.target.stored[fill.dst_stored];
      const int64_t item = tensor::ItemBytes(stored.dtype);
      if (program_.zeros_ == nullptr) {
        WEFT_ASSIGN_OR_RETURN(program_.zeros_, memory::DeviceBuffer::Allocate(
                                                   *in_.options.device.driver,
                                                   in_.device, kZeroBytes));
      }
      cuda::Copy copy;
      copy.copy.src = program_.zeros_->data();
      copy.copy.conversion = {stored.dtype, stored.dtype};
      int64_t offset = 0;
      int64_t stride = item;
      for (int d = fill.box.rank() - 1; d >= 0; --d) {
        offset += fill.box.range(d).begin * stride;
        if (fill.box.extent(d) > 1) {
          copy.copy.modes.insert(copy.copy.modes.begin(),
                                 {fill.box.extent(d), 0, stride});
        }
        stride *= stored.shape[d];
      }
      copy.copy.dst = local.base + offset;
      copies_.copies.push_back(std::move(copy));
    }
    return absl::OkStatus();
  }

  absl::Status CloseBatch() {
    Batch batch;
    WEFT_RETURN_IF_ERROR(BuildBatch(batch));
    left_bytes_ -= std::exchange(bytes_, 0);
    if (batch.lines != nullptr || batch.copies != nullptr ||
        batch.digests != nullptr) {
      program_.batches_.push_back(std::move(batch));
    }
    return absl::OkStatus();
  }

  absl::Status BuildBatch(Batch& batch) {
    const cuda::CopyWay way =
        is_small_ ? cuda::CopyWay::kKernel : in_.options.device.copy_way;
    WEFT_ASSIGN_OR_RETURN(
        batch.lines,
        Build(lines_,
              way == cuda::CopyWay::kByCost ? cuda::CopyWay::kEngines : way));
    WEFT_ASSIGN_OR_RETURN(batch.copies, Build(copies_, way));
    WEFT_ASSIGN_OR_RETURN(batch.digests, Build(digests_, way));
    for (const Named& each : names_) {
      program_.digests_[each.name] = {
          .program = each.in_copies ? batch.copies.get() : batch.digests.get(),
          .first_value = each.first_value,
          .num_values = each.num_values};
      if (!each.name.witness) {
        batch.moves.push_back({each.name.peer, each.name.index});
      }
    }
    names_.clear();
    return absl::OkStatus();
  }

  // Null when there is nothing to do; leaves `spec` empty.
  absl::StatusOr<std::unique_ptr<cuda::Program>> Build(cuda::ProgramSpec& spec,
                                                       cuda::CopyWay way) {
    const cuda::ProgramSpec taken = std::exchange(spec, {});
    if (taken.copies.empty() && taken.digests.empty()) {
      return std::unique_ptr<cuda::Program>();
    }
    const DeviceOptions& device = in_.options.device;
    return device.build(in_.device, taken, {.copy_way = way});
  }

  struct Named {
    DigestName name;
    int64_t first_value = 0;
    int64_t num_values = 0;
    bool in_copies = false;
  };
  DeviceProgram& program_;
  const BindInputs& in_;
  std::vector<const BoundMove*> in_order_;
  std::vector<const BoundMove*> posted_;
  std::vector<MoveName> posted_names_;  // that convert
  int64_t left_bytes_ = 0;              // of the batches that are not closed
  bool is_small_ = false;
  int64_t bytes_ = 0;  // of the one that is being filled
  cuda::ProgramSpec lines_;
  cuda::ProgramSpec copies_;
  cuda::ProgramSpec digests_;
  std::vector<Named> names_;
};

absl::Status DeviceProgram::CompileBatches(const BindInputs& inputs) {
  return Compiler(*this, inputs).Compile();
}

}  // namespace weft::execute
