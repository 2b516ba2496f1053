// Safetensors files: read by mapping, written atomically.
#ifndef WEFT_CHECKPOINT_SAFETENSORS_H_
#define WEFT_CHECKPOINT_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/tensor/tensor_spec.h"

namespace weft::checkpoint {

struct TensorEntry {
  tensor::TensorSpec spec;
  int64_t begin_bytes = 0;  // within the data section
  int64_t end_bytes = 0;
};

// Larger headers are refused: no real file comes near, and a reader would have
// to trust the file with its memory.
inline constexpr int64_t kMaxHeaderBytes = 100'000'000;

// Parses the header (the 8-byte length and the JSON after it) of a file of
// `file_bytes` bytes whose first bytes are `head`. Refuses, naming the
// tensor: a header length beyond the file (or above 100 MB), bad JSON, an
// unknown dtype, offsets that overlap, leave holes, leave the file or do not
// match dtype x shape, a name or field that occurs twice. All faults at once;
// kDataLoss for truncation, kInvalidArgument otherwise. `metadata` = the
// "__metadata__" strings.
struct ParsedHeader {
  int64_t data_begin_bytes = 0;
  std::vector<TensorEntry> tensors;  // by offset
  std::map<std::string, std::string> metadata;
};
absl::StatusOr<ParsedHeader> ParseSafetensorsHeader(std::string_view head,
                                                    int64_t file_bytes);

// A mapped file. Reads need no copy; the mapping lives as long as the object.
// Thread-safe. Another process that shortens the file while it is read ends
// this one (SIGBUS): replace files by rename, as WriteSafetensors does.
class SafetensorsFile {
 public:
  // kNotFound if there is no such file; kInvalidArgument if it is no regular
  // file or cannot be read; ParseSafetensorsHeader's errors. All name `path`.
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(
      const std::string& path);
  virtual ~SafetensorsFile() = default;
  virtual const ParsedHeader& header() const = 0;
  // The bytes of an entry of header(). Not aligned to the item size: a file
  // may have a header of any length. Copy items out, do not cast.
  virtual absl::Span<const std::byte> Data(const TensorEntry& entry) const = 0;
};

// Writes `tensors` in the given order to `path`: to a temporary file beside
// it, fsynced, then renamed; nothing is left behind on a failure. The header is
// padded to 8 bytes, so items are aligned if the caller puts the tensors with
// larger items first.
// kAlreadyExists if `path` exists and not `overwrite` (also if it appears
// while this runs: it is never replaced); kResourceExhausted on a full disk, a
// quota or a file size limit; kNotFound without the folder; kInvalidArgument if
// a name repeats or is not UTF-8, or data does not fit dtype x shape.
struct TensorToWrite {
  tensor::TensorSpec spec;
  absl::Span<const std::byte> data;
};
absl::Status WriteSafetensors(
    const std::string& path, const std::vector<TensorToWrite>& tensors,
    const std::map<std::string, std::string>& metadata, bool overwrite);

// What WriteSafetensors without `overwrite` would say of `path` now, to be
// asked before long work: kAlreadyExists if it is taken, kNotFound without the
// folder.
absl::Status CheckMayCreate(const std::string& path);

// A checkpoint directory: `model.safetensors`, or several files with
// `model.safetensors.index.json`. Also accepts the path of one .safetensors or
// of the index itself. Copies share the mappings. Thread-safe once opened.
class Checkpoint {
 public:
  // kNotFound if there is nothing to open. An index and its files must agree:
  // every file is there and holds exactly the tensors that the index places in
  // it. All disagreements in one kInvalidArgument status.
  static absl::StatusOr<Checkpoint> Open(const std::string& path);
  // Sorted by name.
  const std::vector<tensor::TensorSpec>& tensors() const { return tensors_; }
  // kNotFound with the name; kUnimplemented for what stands in for others.
  absl::StatusOr<absl::Span<const std::byte>> Data(
      const std::string& name) const;
  absl::StatusOr<tensor::TensorSpec> Spec(const std::string& name) const;

  // The bytes of one entry along dimension 0. `made` holds them where they are
  // in no file; nobody else does, so that a stack need not fit into memory.
  struct Entry {
    absl::Span<const std::byte> bytes;
    std::vector<std::byte> made;
  };
  // kNotFound with the name; kOutOfRange.
  absl::StatusOr<Entry> EntryOf(const std::string& name, int64_t index) const;
  // Whether `name` stands in for others.
  bool IsMade(const std::string& name) const;

  // Of the files, whatever stands in for them.
  int64_t total_bytes() const { return total_bytes_; }

  // From now on `spec`, of rank 2 or more, stands in for the tensors named
  // `replaced` (those of them that there are, and one of its own name), which
  // are no longer there. `make` returns all bytes of one entry along dimension
  // 0, whenever one is asked for, from any thread. Copies made before keep what
  // they have.
  using MakeEntry = std::function<std::vector<std::byte>(int64_t index)>;
  void Substitute(const tensor::TensorSpec& spec,
                  const std::vector<std::string>& replaced, MakeEntry make);

 private:
  struct Located {
    std::shared_ptr<const SafetensorsFile> file;  // null if there is `make`
    TensorEntry entry;
    MakeEntry make;
  };
  absl::StatusOr<const Located*> Find(const std::string& name) const;
  void ListTensors();

  std::map<std::string, Located> located_;
  std::vector<tensor::TensorSpec> tensors_;
  int64_t total_bytes_ = 0;
};

}  // namespace weft::checkpoint

#endif  // WEFT_CHECKPOINT_SAFETENSORS_H_
