#include "weft/session/memory_area.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/tensor/dtype.h"

namespace weft::session {
namespace {

// A cache line: no two stored tensors share one, and every SIMD width is met.
constexpr int64_t kStoredAlignmentBytes = 64;
// On a GPU, as torch's allocator has it: large tensors begin on borders of
// their own, and whoever measures here measures what a framework would see.
constexpr int64_t kDeviceAlignmentBytes = 512;
constexpr int64_t kLargeBytes = int64_t{1} << 20;
constexpr int64_t kLargeAlignmentBytes = int64_t{64} << 10;

int64_t HostAlignment(int64_t) { return kStoredAlignmentBytes; }
int64_t DeviceAlignment(int64_t bytes) {
  return bytes < kLargeBytes ? kDeviceAlignmentBytes : kLargeAlignmentBytes;
}

// The bytes of one area for all stored tensors, and where each lies in it.
absl::StatusOr<int64_t> LayOut(const manifest::Placement& placement,
                               int64_t (*alignment_of)(int64_t bytes),
                               std::vector<manifest::StoredLocation>& places) {
  int64_t end_bytes = 0;
  for (const layout::StoredTensor& stored : placement.stored) {
    WEFT_ASSIGN_OR_RETURN(const int64_t bytes, StoredBytes(stored));
    const int64_t begin = base::AlignUp(end_bytes, alignment_of(bytes));
    places.push_back({0, begin});
    const std::optional<int64_t> end =
        base::CheckedAdd(begin, base::AlignUp(bytes, kStoredAlignmentBytes));
    if (!end.has_value()) {
      return absl::InvalidArgumentError(
          "bytes of all stored tensors overflow 64 bits");
    }
    end_bytes = *end;
  }
  // A rank may hold nothing at all (empty shards): still one area.
  return std::max(end_bytes, kStoredAlignmentBytes);
}

}  // namespace

absl::StatusOr<int64_t> StoredBytes(const layout::StoredTensor& stored) {
  WEFT_ASSIGN_OR_RETURN(const int64_t elements, layout::NumElements(stored));
  const std::optional<int64_t> bytes =
      base::CheckedMul(elements, tensor::ItemBytes(stored.dtype));
  if (!bytes.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("bytes of \"", stored.name, "\" with shape ",
                     tensor::ShapeToString(stored.shape), " overflow 64 bits"));
  }
  return *bytes;
}

absl::StatusOr<OwnedRankMemory> AllocateFor(
    const manifest::Placement& placement, memory::MemoryKind kind) {
  OwnedRankMemory owned;
  WEFT_ASSIGN_OR_RETURN(const int64_t bytes,
                        LayOut(placement, HostAlignment, owned.memory.stored));
  WEFT_ASSIGN_OR_RETURN(owned.buffer, memory::Buffer::Allocate(kind, bytes));
  owned.memory.areas.push_back({owned.buffer->span(), owned.buffer.get()});
  return owned;
}

absl::StatusOr<DeviceRankMemory> AllocateOnDevice(
    const manifest::Placement& placement, memory::DeviceDriver& driver,
    int device) {
  DeviceRankMemory owned;
  WEFT_ASSIGN_OR_RETURN(const int64_t bytes, LayOut(placement, DeviceAlignment,
                                                    owned.memory.stored));
  WEFT_ASSIGN_OR_RETURN(owned.buffer,
                        memory::DeviceBuffer::Allocate(driver, device, bytes));
  owned.memory.areas.push_back(
      {.bytes = {owned.buffer->data(), static_cast<size_t>(bytes)},
       .device = device});
  return owned;
}

absl::StatusOr<int> DeviceOf(const RankMemory& memory) {
  int device = memory::kHostMemory;
  for (const MemoryArea& area : memory.areas) {
    if (area.device == memory::kHostMemory || area.device == device) continue;
    if (device != memory::kHostMemory) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the memory of one rank lies on GPU ", device, " and on GPU ",
          area.device, "; give each GPU a rank of its own"));
    }
    device = area.device;
  }
  return device;
}

absl::Status CheckRankMemory(const manifest::Placement& placement,
                             const RankMemory& memory) {
  base::FaultList faults;
  if (memory.stored.size() != placement.stored.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory is given for ", memory.stored.size(),
                     " stored tensors of ", placement.stored.size()));
  }
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    const layout::StoredTensor& stored = placement.stored[i];
    const manifest::StoredLocation& where = memory.stored[i];
    WEFT_ASSIGN_OR_RETURN(const int64_t bytes, StoredBytes(stored));
    if (where.buffer < 0 ||
        static_cast<size_t>(where.buffer) >= memory.areas.size()) {
      faults.Add(absl::StrCat("\"", stored.name, "\" lies in area ",
                              where.buffer, " of ", memory.areas.size()));
      continue;
    }
    const auto area_bytes =
        static_cast<int64_t>(memory.areas[where.buffer].bytes.size());
    if (where.offset_bytes < 0 || where.offset_bytes > area_bytes ||
        bytes > area_bytes - where.offset_bytes) {
      faults.Add(absl::StrCat("\"", stored.name, "\" needs ", bytes,
                              " bytes at offset ", where.offset_bytes,
                              " of an area of ", area_bytes, " bytes"));
    }
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

absl::Status CheckTargetMemory(const manifest::Placement& placement,
                               const RankMemory& memory) {
  WEFT_RETURN_IF_ERROR(CheckRankMemory(placement, memory));
  struct Piece {
    std::uintptr_t begin;
    std::uintptr_t end;
    size_t stored;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    WEFT_ASSIGN_OR_RETURN(const int64_t bytes,
                          StoredBytes(placement.stored[i]));
    const auto begin = reinterpret_cast<std::uintptr_t>(StoredBase(memory, i));
    if (bytes > 0) {
      pieces.push_back({begin, begin + static_cast<std::uintptr_t>(bytes), i});
    }
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return std::pair(a.begin, a.stored) < std::pair(b.begin, b.stored);
  });
  base::FaultList faults;
  const Piece* farthest = nullptr;  // of those before, the one that ends last
  for (const Piece& piece : pieces) {
    if (farthest != nullptr && piece.begin < farthest->end) {
      faults.Add(absl::StrCat(
          "\"", placement.stored[piece.stored].name, "\" and \"",
          placement.stored[farthest->stored].name, "\" share ",
          std::min(piece.end, farthest->end) - piece.begin,
          " bytes of memory, one would overwrite the other: give each memory "
          "of its own, or receive only one of them"));
    }
    if (farthest == nullptr || piece.end > farthest->end) farthest = &piece;
  }
  return faults.ToStatus(absl::StatusCode::kInvalidArgument);
}

std::byte* StoredBase(const RankMemory& memory, size_t index) {
  const manifest::StoredLocation& where = memory.stored[index];
  return memory.areas[where.buffer].bytes.data() + where.offset_bytes;
}

}  // namespace weft::session
