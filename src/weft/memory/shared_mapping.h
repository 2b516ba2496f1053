// A second view of a kShared buffer's pages, in this or another process.
#ifndef WEFT_MEMORY_SHARED_MAPPING_H_
#define WEFT_MEMORY_SHARED_MAPPING_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace weft::memory {

// Owns the mapping; the pages stay readable and writable through it after the
// buffer, or the process that made it, is gone.
class SharedMapping {
 public:
  // Maps the whole file. `fd` stays the caller's and may be closed afterwards.
  // kPermissionDenied when the host forbids it, kInvalidArgument when `fd` is
  // no mappable file, kResourceExhausted when address space is lacking.
  static absl::StatusOr<std::shared_ptr<SharedMapping>> Map(int fd);
  ~SharedMapping();
  SharedMapping(const SharedMapping&) = delete;
  SharedMapping& operator=(const SharedMapping&) = delete;

  std::byte* data() const { return base_; }
  int64_t size_bytes() const { return size_bytes_; }  // whole pages

 private:
  SharedMapping(std::byte* base, int64_t size_bytes)
      : base_(base), size_bytes_(size_bytes) {}
  std::byte* base_;
  int64_t size_bytes_;
};

}  // namespace weft::memory

#endif  // WEFT_MEMORY_SHARED_MAPPING_H_
