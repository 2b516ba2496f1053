#include <algorithm>
#include <cstddef>
#include <utility>

#include "weft/base/status.h"
#include "weft/execute/block_internal.h"
#include "weft/execute/mapped_compile_internal.h"
#include "weft/tensor/dtype.h"

namespace weft::execute {
namespace {

constexpr int64_t kMaxCopyBytes = int64_t{1} << 20;
constexpr int64_t kMinCopyBytes = int64_t{64} << 10;
// Chunks per thread below which the last ones would leave threads idle.
constexpr int64_t kChunksPerThread = 8;
// Copies that are tiny are taken several at a time, so that the shared counter
// costs nothing beside them.
constexpr int64_t kMaxCopiesPerChunk = 256;
// Source values of a digested block stay in a core's L2 until converted.
constexpr int64_t kBlockBytes = int64_t{256} << 10;

class MappedCompiler {
 public:
  MappedCompiler(const Binding& binding, int num_threads) : binding_(binding) {
    int64_t total = 0;
    for (const BoundMove& move : binding.moves) {
      if (move.far_mapped != nullptr) total += move.dst_bytes;
    }
    copy_bytes_ = std::clamp(total / (num_threads * kChunksPerThread),
                             kMinCopyBytes, kMaxCopyBytes);
  }

  absl::StatusOr<MappedProgram> Compile() {
    for (size_t m = 0; m < binding_.moves.size(); ++m) {
      const BoundMove& move = binding_.moves[m];
      if (move.far_mapped == nullptr) continue;
      index_ = static_cast<int32_t>(m);
      if (move.converted_table >= 0) {
        WEFT_RETURN_IF_ERROR(CompileConversion(move));
      } else {
        CompileRuns(move);
      }
    }
    return std::move(program_);
  }

 private:
  const std::byte* SrcOf(const BoundMove& move) const {
    return binding_.direction == Direction::kPull ? move.far_mapped : move.near;
  }
  std::byte* DstOf(const BoundMove& move) const {
    return binding_.direction == Direction::kPull ? move.near : move.far_mapped;
  }

  static int64_t LargerItem(const BoundMove& move) {
    return std::max(tensor::ItemBytes(move.conversion.from),
                    tensor::ItemBytes(move.conversion.to));
  }

  void AddRun(const BoundMove& move, const layout::Run& run) {
    // Mapped memories are alike: "far" is the source here in both directions.
    const FarRun whole =
        MakeFarRun(run, move.conversion, Direction::kPull, 0, 0);
    SplitRun(whole, LargerItem(move), copy_bytes_, Measure::kAllBytes,
             [this, &move](const FarRun& part) {
               convert::StridedCopy copy =
                   MakeCopy(part, move.conversion, Direction::kPull);
               copy.src = SrcOf(move) + part.far_offset_bytes;
               copy.dst = DstOf(move) + part.near_offset_bytes;
               Append(move, std::move(copy),
                      MeasureRun(part, tensor::ItemBytes(move.conversion.to),
                                 Measure::kAllBytes));
             });
  }

  void Append(const BoundMove& move, convert::StridedCopy copy,
              int64_t dst_bytes) {
    const bool room =
        !program_.chunks.empty() && !closed_ &&
        program_.chunks.back().peer == move.peer &&
        program_.chunks.back().dst_bytes + dst_bytes <= copy_bytes_ &&
        program_.chunks.back().copies_end -
                program_.chunks.back().copies_begin <
            kMaxCopiesPerChunk;
    if (!room) OpenChunk(move);
    program_.copies.push_back(std::move(copy));
    ++program_.chunks.back().copies_end;
    program_.chunks.back().dst_bytes += dst_bytes;
  }

  void OpenChunk(const BoundMove& move) {
    const auto at = static_cast<int64_t>(program_.copies.size());
    program_.chunks.push_back({index_, move.peer, at, at, 0, -1});
    closed_ = false;
  }

  void CompileRuns(const BoundMove& move) {
    for (const layout::Run& run : *move.runs) AddRun(move, run);
  }

  absl::Status CompileConversion(const BoundMove& move) {
    for (const tensor::Box& box :
         CutBox(move.box, *move.src_map, kBlockBytes / LargerItem(move))) {
      for (layout::IndexMap& part : layout::Restrict(*move.src_map, box)) {
        WEFT_ASSIGN_OR_RETURN(
            const std::vector<layout::Run> runs,
            layout::CommonRuns(part, *move.dst_map, kMaxRunsPerBlock));
        // One chunk a digested block: its values are read twice in a row.
        OpenChunk(move);
        const size_t chunk = program_.chunks.size() - 1;
        for (const layout::Run& run : runs) {
          convert::StridedCopy copy =
              MakeCopy(MakeFarRun(run, move.conversion, Direction::kPull, 0, 0),
                       move.conversion, Direction::kPull);
          copy.src = SrcOf(move) +
                     run.src_offset * tensor::ItemBytes(move.conversion.from);
          copy.dst = DstOf(move) +
                     run.dst_offset * tensor::ItemBytes(move.conversion.to);
          program_.copies.push_back(std::move(copy));
          ++program_.chunks[chunk].copies_end;
        }
        program_.chunks[chunk].dst_bytes =
            part.box().num_elements() * tensor::ItemBytes(move.conversion.to);
        program_.chunks[chunk].digest =
            static_cast<int32_t>(program_.digests.size());
        program_.digests.push_back({SrcOf(move), std::move(part),
                                    move.conversion.from,
                                    move.converted_table});
        closed_ = true;
      }
    }
    return absl::OkStatus();
  }

  const Binding& binding_;
  MappedProgram program_;
  int64_t copy_bytes_ = kMaxCopyBytes;
  int32_t index_ = 0;
  bool closed_ = false;  // the last chunk takes no more copies
};

}  // namespace

absl::StatusOr<MappedProgram> CompileMapped(const Binding& binding,
                                            int num_threads) {
  return MappedCompiler(binding, num_threads).Compile();
}

}  // namespace weft::execute
