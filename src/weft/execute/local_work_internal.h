// The part of a run that cores do: mapped chunks and copies between near
// memory and staging. Threads are made once, at Bind.
#ifndef WEFT_EXECUTE_LOCAL_WORK_INTERNAL_H_
#define WEFT_EXECUTE_LOCAL_WORK_INTERNAL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"

namespace weft::execute {

// A copy between a staging slot and near memory, or word of a move that has
// landed.
struct SlotJob {
  static SlotJob Landed(int32_t move) {
    SlotJob job;
    job.landed_move = move;
    return job;
  }
  int32_t peer = 0;
  int32_t transfer = 0;  // into PeerTransfers::staged
  int32_t active = 0;    // the driver's name for it
  int64_t slot_offset_bytes = 0;
  int32_t landed_move = -1;  // into Binding::moves; -1 = a copy
};

// One run at a time: Begin, then TryOne by the driving thread and Add as slots
// fill, then Finish (or Abort). Workers sleep between runs.
class LocalWork {
 public:
  struct Tasks {
    int64_t num_chunks = 0;
    std::function<void(int64_t chunk)> run_chunk;
    std::function<void(const SlotJob& job)> run_job;
  };

  // `num_workers` threads beside the driving one; may be 0.
  // kResourceExhausted when the system gives no threads.
  static absl::StatusOr<std::unique_ptr<LocalWork>> Make(int num_workers,
                                                         Tasks tasks);
  ~LocalWork();
  LocalWork(const LocalWork&) = delete;
  LocalWork& operator=(const LocalWork&) = delete;

  void Begin();
  void Add(const SlotJob& job);
  // Does one job, else one chunk, in this thread; false when there is neither.
  bool TryOne();
  // Moves out the copies that are done.
  void TakeDone(std::vector<SlotJob>& done);
  bool AllChunksTaken() const {
    return next_chunk_.load(std::memory_order_relaxed) >= tasks_.num_chunks;
  }
  // The chunk that is taken next (to name a tensor in an error).
  int64_t next_chunk() const {
    return next_chunk_.load(std::memory_order_relaxed);
  }
  // No more jobs will come: returns when all that was taken or added is done.
  void Finish();
  // The same, but drops what nobody has taken yet.
  void Abort();

 private:
  explicit LocalWork(Tasks tasks) : tasks_(std::move(tasks)) {}
  void WorkerMain();
  void WorkUntilClosed();
  bool TakeJob(SlotJob& job);
  bool TakeChunk();
  void RunJob(const SlotJob& job);

  const Tasks tasks_;
  std::vector<std::thread> workers_;
  alignas(64) std::atomic<int64_t> next_chunk_{0};
  alignas(64) std::atomic<int64_t> num_queued_{0};  // jobs_.size()
  std::atomic<int64_t> num_done_{0};                // done_.size()

  std::mutex mutex_;
  std::condition_variable wake_;      // workers: work, or the end
  std::condition_variable all_idle_;  // the driver, in Finish
  std::deque<SlotJob> jobs_;
  std::vector<SlotJob> done_;
  int64_t run_number_ = 0;
  int num_busy_ = 0;    // workers inside the present run
  bool closed_ = true;  // no job will be added
  bool exiting_ = false;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_LOCAL_WORK_INTERNAL_H_
