// The events of a VersionWatch between the thread that makes them and the one
// that reads them. Holds at most one record of a version: a newer one replaces
// it and goes to the end; of versions that are GONE only the newest
// kGoneVersionsQueued stay. So it is as small as the model, however slow the
// reader.
//
// Threads: all methods may be called from any thread.
#ifndef WEFT_CATALOG_VERSION_QUEUE_H_
#define WEFT_CATALOG_VERSION_QUEUE_H_

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <map>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// GONE versions of a model that a store still knows: those that went last.
inline constexpr std::size_t kGoneVersionsKept = 16;
// Of a queue, so that all of those are among them: behind one of them may be
// those that went later, and as many again that went before, were told once
// more (why they went has changed) and then forgotten.
inline constexpr std::size_t kGoneVersionsQueued = 2 * kGoneVersionsKept;

class VersionQueue {
 public:
  // Adds a record; ends a Next that waits. Does not call the wake function:
  // the caller does, by Wake, when it holds no lock.
  void Push(const VersionRecord& record);
  // No more records will come: once the queue is empty, Next returns `status`.
  void Close(const absl::Status& status);
  void Wake();

  // As in VersionWatch.
  absl::StatusOr<VersionRecord> Next(base::Deadline deadline);
  void Cancel();
  void SetWake(std::function<void()> wake);

 private:
  void DropOldestGone();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<VersionRecord> records_;
  std::map<VersionId, std::list<VersionRecord>::iterator> by_version_;
  std::size_t gone_count_ = 0;
  bool cancelled_ = false;
  absl::Status closed_;  // OK while open

  // Held while wake_ runs, so that SetWake(nullptr) waits for it. Never taken
  // with mutex_ held: wake_ calls Next.
  std::mutex wake_mutex_;
  std::function<void()> wake_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_VERSION_QUEUE_H_
