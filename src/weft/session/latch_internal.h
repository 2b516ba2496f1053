// The dirty latch: whether a receiver's memory may be torn, in this process
// and, with a state file, for the next one.
#ifndef WEFT_SESSION_LATCH_INTERNAL_H_
#define WEFT_SESSION_LATCH_INTERNAL_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "weft/catalog/store.h"
#include "weft/manifest/placement.h"
#include "weft/session/state_file_internal.h"
#include "weft/session/state_lock_internal.h"

namespace weft::session {

// Threads: one caller at a time, except fenced() and reason().
class Latch {
 public:
  // Set, until a first commit. Without a `path` nothing is kept on disk.
  // kFailedPrecondition when the file is another receiver's, by what it says or
  // because that receiver lives.
  static absl::StatusOr<std::unique_ptr<Latch>> Open(
      const std::string& path, const std::string& model,
      const manifest::LayoutDigest& layout);

  // What the file said when it was opened.
  const std::optional<ReceiverState>& last_life() const { return last_life_; }
  // Written into the file from now on.
  void SetGeneration(uint64_t generation) { state_.generation = generation; }

  bool fenced() const;
  std::string reason() const;

  // Before the first byte of `version` lands. Not set when the file cannot be
  // written.
  absl::Status Set(const catalog::VersionId& version, std::string reason);
  // Stays set, or is set by what went wrong after the last byte.
  void Fence(std::string reason);
  // The memory holds `version` and nothing else: on disk.
  absl::Status Record(const catalog::VersionId& version);
  // The same in this process: it may serve.
  void Clear();

 private:
  explicit Latch(std::string path) : path_(std::move(path)) {}
  absl::Status Write(bool dirty, const catalog::VersionId& version);

  const std::string path_;
  std::unique_ptr<StateLock> lock_;  // null without a path
  ReceiverState state_;
  std::optional<ReceiverState> last_life_;

  mutable absl::Mutex mutex_;
  bool fenced_ ABSL_GUARDED_BY(mutex_) = true;
  std::string reason_ ABSL_GUARDED_BY(mutex_) = "no refit has committed yet";
};

}  // namespace weft::session

#endif  // WEFT_SESSION_LATCH_INTERNAL_H_
