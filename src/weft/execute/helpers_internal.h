// Threads that work for a while beside the one that drives a GPU.
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
  // What has not begun is dropped; waits for the rest.
  ~Helpers();
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;

  void Add(std::function<void()> job);
  // Whether all that was added is done.
  bool Idle();

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  size_t running_ = 0;
  bool closed_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace weft::execute

#endif  // WEFT_EXECUTE_HELPERS_INTERNAL_H_
