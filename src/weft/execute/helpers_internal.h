// Threads that work beside the one that drives a GPU. They stay between runs:
// to end 15 of them took 1 ms, at the end of a refit of 44.
#ifndef WEFT_EXECUTE_HELPERS_INTERNAL_H_
#define WEFT_EXECUTE_HELPERS_INTERNAL_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace weft::execute {

// Jobs are begun in the order in which they were added. One caller.
class Helpers {
 public:
  // Fewer where the system gives fewer; with none, Add does the work itself.
  explicit Helpers(size_t num_threads);
  ~Helpers();
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;

  void Add(std::function<void()> job);
  // Wakes them once: a hundred times took the caller 1 ms.
  void Add(std::vector<std::function<void()>> jobs);
  // Does a job that has not begun, if there is one, in this thread.
  bool DoOne();
  // Whether all that was added is done.
  bool Idle();
  // What has not begun is dropped; waits for the rest.
  void Finish();

  size_t num_threads() const { return threads_.size(); }

 private:
  void Work();
  void Do(std::unique_lock<std::mutex>& lock);  // the first of jobs_

  std::mutex mutex_;
  std::condition_variable changed_;  // jobs_, closed_
  std::condition_variable ended_;    // running_ is 0
  std::deque<std::function<void()>> jobs_;
  size_t running_ = 0;
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_HELPERS_INTERNAL_H_
