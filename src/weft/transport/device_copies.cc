#include "weft/transport/device_copies.h"

#include <algorithm>
#include <chrono>

#include "weft/base/deadline.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"

namespace weft::transport {
namespace {

// What is packed on the GPU before it crosses to the host: rows of some bytes
// cross PCIe at a fraction of its rate.
constexpr int64_t kPackedBytes = int64_t{1} << 20;
// A copy engine takes microseconds; only a GPU that is lost takes longer.
constexpr std::chrono::seconds kCopyPatience{10};

// Whole pieces of the present row that fit into `left_bytes`, as a span of
// memory for PieceCursor::NextRow; 0 where they are better taken one by one.
int64_t RowSpanBytes(const StridedPieces& pieces, int64_t left_bytes) {
  if (pieces.modes.empty()) return 0;
  const StridedPieces::Mode& row = pieces.modes.back();
  if (row.stride_bytes < pieces.piece_bytes) return 0;
  const int64_t fitting = std::min(left_bytes / pieces.piece_bytes, row.extent);
  return fitting == 0 ? 0
                      : (fitting - 1) * row.stride_bytes + pieces.piece_bytes;
}

}  // namespace

absl::Status QueuePieces(memory::DeviceQueue& queue, const std::byte* base,
                         const StridedPieces& pieces,
                         int64_t packed_offset_bytes, std::byte* packed,
                         int64_t packed_bytes) {
  if (packed_bytes == 0) return absl::OkStatus();
  PieceCursor cursor(pieces, packed_offset_bytes);
  int64_t left = packed_bytes;
  while (left > 0) {
    const PieceCursor::Row row = cursor.NextRow(RowSpanBytes(pieces, left));
    int64_t bytes = row.count * pieces.piece_bytes;
    if (row.count > 0) {
      WEFT_RETURN_IF_ERROR(
          queue.CopyRows(packed, pieces.piece_bytes, base + row.offset_bytes,
                         row.stride_bytes, pieces.piece_bytes, row.count));
    } else {
      // A part of a piece, or pieces that overlap or step back.
      const PieceCursor::Stretch stretch = cursor.Next(left);
      bytes = stretch.bytes;
      WEFT_RETURN_IF_ERROR(
          queue.Copy(packed, base + stretch.offset_bytes, bytes));
    }
    packed += bytes;
    left -= bytes;
  }
  return absl::OkStatus();
}

int DeviceCopier::DeviceOf(const std::byte* address) const {
  if (driver_ == nullptr || address == nullptr) return memory::kHostMemory;
  const absl::StatusOr<memory::DeviceAllocation> found = driver_->Find(address);
  return found.ok() ? found->device : memory::kHostMemory;
}

absl::StatusOr<DeviceCopier::Gpu*> DeviceCopier::Use(int device) {
  Gpu& gpu = gpus_[device];
  if (gpu.queue == nullptr) {
    WEFT_ASSIGN_OR_RETURN(gpu.queue, driver_->MakeQueue(device));
  }
  return &gpu;
}

absl::Status DeviceCopier::Copy(int device, std::byte* dst,
                                const std::byte* src, int64_t bytes) {
  WEFT_ASSIGN_OR_RETURN(Gpu* const gpu, Use(device));
  WEFT_RETURN_IF_ERROR(gpu->queue->Copy(dst, src, bytes));
  return gpu->queue->Wait(base::Deadline::After(kCopyPatience),
                          "copying between a GPU and the host");
}

absl::Status DeviceCopier::PackOnDevice(int device, const std::byte* base,
                                        const StridedPieces& pieces,
                                        int64_t packed_offset_bytes,
                                        absl::Span<std::byte> packed) {
  WEFT_ASSIGN_OR_RETURN(Gpu* const gpu, Use(device));
  WEFT_RETURN_IF_ERROR(QueuePieces(*gpu->queue, base, pieces,
                                   packed_offset_bytes, packed.data(),
                                   static_cast<int64_t>(packed.size())));
  return gpu->queue->Wait(base::Deadline::After(kCopyPatience),
                          "packing on a GPU");
}

absl::Status DeviceCopier::Pack(int device, const std::byte* base,
                                const StridedPieces& pieces,
                                int64_t packed_offset_bytes,
                                absl::Span<std::byte> packed) {
  WEFT_ASSIGN_OR_RETURN(Gpu* const gpu, Use(device));
  if (gpu->packed == nullptr) {
    WEFT_ASSIGN_OR_RETURN(gpu->packed, memory::DeviceBuffer::Allocate(
                                           *driver_, device, kPackedBytes));
  }
  const auto bytes = static_cast<int64_t>(packed.size());
  for (int64_t done = 0; done < bytes; done += kPackedBytes) {
    const int64_t part = std::min(kPackedBytes, bytes - done);
    WEFT_RETURN_IF_ERROR(QueuePieces(*gpu->queue, base, pieces,
                                     packed_offset_bytes + done,
                                     gpu->packed->data(), part));
    WEFT_RETURN_IF_ERROR(
        Copy(device, packed.data() + done, gpu->packed->data(), part));
  }
  return absl::OkStatus();
}

}  // namespace weft::transport
