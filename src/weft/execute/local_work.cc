#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/execute/local_work_internal.h"

namespace weft::execute {

absl::StatusOr<std::unique_ptr<LocalWork>> LocalWork::Make(int num_workers,
                                                           Tasks tasks) {
  std::unique_ptr<LocalWork> work(new LocalWork(std::move(tasks)));
  try {
    for (int i = 0; i < num_workers; ++i) {
      work->workers_.emplace_back([self = work.get()] { self->WorkerMain(); });
    }
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "could not start worker thread ", work->workers_.size() + 1, " of ",
        num_workers, ": ", error.what()));
  }
  return work;
}

LocalWork::~LocalWork() {
  {
    const std::lock_guard lock(mutex_);
    exiting_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void LocalWork::Begin() {
  {
    const std::lock_guard lock(mutex_);
    next_chunk_.store(0, std::memory_order_relaxed);
    closed_ = false;
    ++run_number_;
    num_busy_ = static_cast<int>(workers_.size());
  }
  wake_.notify_all();
}

void LocalWork::Add(const SlotJob& job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(job);
    num_queued_.fetch_add(1, std::memory_order_relaxed);
  }
  wake_.notify_one();
}

bool LocalWork::TakeJob(SlotJob& job) {
  // Looked at without the lock: a chunk thread passes here once a chunk.
  if (num_queued_.load(std::memory_order_relaxed) == 0) return false;
  const std::lock_guard lock(mutex_);
  if (jobs_.empty()) return false;
  job = jobs_.front();
  jobs_.pop_front();
  num_queued_.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

void LocalWork::RunJob(const SlotJob& job) {
  tasks_.run_job(job);
  if (job.landed_move >= 0) return;
  const std::lock_guard lock(mutex_);
  done_.push_back(job);
  num_done_.fetch_add(1, std::memory_order_relaxed);
}

bool LocalWork::TakeChunk() {
  if (AllChunksTaken()) return false;
  const int64_t chunk = next_chunk_.fetch_add(1, std::memory_order_relaxed);
  if (chunk >= tasks_.num_chunks) return false;
  tasks_.run_chunk(chunk);
  return true;
}

bool LocalWork::TryOne() {
  SlotJob job;
  if (!TakeJob(job)) return TakeChunk();
  RunJob(job);
  return true;
}

void LocalWork::TakeDone(std::vector<SlotJob>& done) {
  done.clear();
  if (num_done_.load(std::memory_order_relaxed) == 0) return;
  const std::lock_guard lock(mutex_);
  std::swap(done, done_);
  num_done_.store(0, std::memory_order_relaxed);
}

void LocalWork::WorkUntilClosed() {
  while (true) {
    if (TryOne()) continue;
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return closed_ || exiting_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
  }
}

void LocalWork::WorkerMain() {
  int64_t last_run = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return exiting_ || run_number_ != last_run; });
      if (exiting_) return;
      last_run = run_number_;
    }
    WorkUntilClosed();
    const std::lock_guard lock(mutex_);
    if (--num_busy_ == 0) all_idle_.notify_all();
  }
}

void LocalWork::Finish() {
  while (TryOne()) {
  }
  std::unique_lock lock(mutex_);
  closed_ = true;
  wake_.notify_all();
  all_idle_.wait(lock, [this] { return num_busy_ == 0; });
}

void LocalWork::Abort() {
  next_chunk_.store(tasks_.num_chunks, std::memory_order_relaxed);
  std::unique_lock lock(mutex_);
  jobs_.clear();
  num_queued_.store(0, std::memory_order_relaxed);
  closed_ = true;
  wake_.notify_all();
  all_idle_.wait(lock, [this] { return num_busy_ == 0; });
  done_.clear();
  num_done_.store(0, std::memory_order_relaxed);
}

}  // namespace weft::execute
