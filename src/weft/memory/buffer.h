// Buffers: memory that Weft allocated, page-aligned, and may share.
#ifndef WEFT_MEMORY_BUFFER_H_
#define WEFT_MEMORY_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace weft::memory {

enum class MemoryKind {
  kHost,    // private pages of this process, any allocator
  kShared,  // a memfd that other processes of this host can map
};

// Owns pages; unmapped and closed when destroyed. Move-only through the
// unique_ptr that Allocate returns. The bytes start as zero.
class Buffer {
 public:
  // kResourceExhausted with the size when the system refuses.
  static absl::StatusOr<std::unique_ptr<Buffer>> Allocate(MemoryKind kind,
                                                          int64_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  MemoryKind kind() const { return kind_; }
  absl::Span<std::byte> span() const { return {base_, size_bytes_}; }
  std::byte* data() const { return base_; }
  int64_t size_bytes() const { return static_cast<int64_t>(size_bytes_); }
  // The memfd of a kShared buffer, still owned by it; -1 otherwise.
  int fd() const { return fd_; }

 private:
  Buffer(MemoryKind kind, std::byte* base, size_t size_bytes, int fd)
      : kind_(kind), base_(base), size_bytes_(size_bytes), fd_(fd) {}
  MemoryKind kind_;
  std::byte* base_;
  size_t size_bytes_;
  int fd_;
};

}  // namespace weft::memory

#endif  // WEFT_MEMORY_BUFFER_H_
