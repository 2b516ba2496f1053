#include <system_error>
#include <utility>

#include "weft/execute/helpers_internal.h"

namespace weft::execute {

Helpers::Helpers(size_t num_threads) {
  for (size_t i = 0; i < num_threads; ++i) {
    try {
      threads_.emplace_back([this] { Work(); });
    } catch (const std::system_error&) {
      break;
    }
  }
}

Helpers::~Helpers() {
  Finish();
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void Helpers::Add(std::function<void()> job) {
  if (threads_.empty()) {
    job();
    return;
  }
  const std::lock_guard lock(mutex_);
  jobs_.push_back(std::move(job));
  changed_.notify_one();
}

void Helpers::Add(std::vector<std::function<void()>> jobs) {
  if (threads_.empty()) {
    for (const std::function<void()>& job : jobs) job();
    return;
  }
  const std::lock_guard lock(mutex_);
  for (std::function<void()>& job : jobs) jobs_.push_back(std::move(job));
  changed_.notify_all();
}

bool Helpers::Idle() {
  const std::lock_guard lock(mutex_);
  return jobs_.empty() && running_ == 0;
}

void Helpers::Finish() {
  std::unique_lock lock(mutex_);
  jobs_.clear();
  ended_.wait(lock, [this] { return running_ == 0; });
}

void Helpers::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closed_ || !jobs_.empty(); });
    if (closed_) return;
    Do(lock);
  }
}

bool Helpers::DoOne() {
  std::unique_lock lock(mutex_);
  if (jobs_.empty()) return false;
  Do(lock);
  return true;
}

void Helpers::Do(std::unique_lock<std::mutex>& lock) {
  const std::function<void()> job = std::move(jobs_.front());
  jobs_.pop_front();
  ++running_;
  lock.unlock();
  job();
  lock.lock();
  if (--running_ == 0) ended_.notify_all();
}

}  // namespace weft::execute
