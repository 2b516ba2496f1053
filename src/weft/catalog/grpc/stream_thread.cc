#include <grpc/support/time.h>

#include "weft/catalog/grpc/stream_thread_internal.h"

namespace weft::catalog {
namespace {

// That late the end of an attachment is seen while nobody calls.
constexpr std::chrono::milliseconds kLookEvery(50);

}  // namespace

StreamThread::~StreamThread() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

StreamThread::Attention::Attention(StreamThread& thread) : thread_(thread) {
  const std::lock_guard lock(thread_.mutex_);
  ++thread_.waiting_;
  if (!thread_.thread_.joinable()) {
    thread_.thread_ = std::thread([&thread] { thread.Run(); });
  }
  thread_.changed_.notify_all();
}

StreamThread::Attention::~Attention() {
  const std::lock_guard lock(thread_.mutex_);
  --thread_.waiting_;
}

void StreamThread::Run() {
  std::unique_lock lock(mutex_);
  while (!over_) {
    changed_.wait_for(lock, kLookEvery,
                      [this] { return over_ || waiting_ > 0; });
    const std::chrono::nanoseconds time =
        waiting_ > 0 ? kLookEvery : std::chrono::nanoseconds(0);
    lock.unlock();
    Poll(time);
    lock.lock();
  }
}

void StreamThread::Poll(std::chrono::nanoseconds time) {
  const gpr_timespec until =
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                   gpr_time_from_nanos(time.count(), GPR_TIMESPAN));
  void* tag = nullptr;
  bool ok = false;
  while (queue_.AsyncNext(&tag, &ok, until) ==
         grpc::CompletionQueue::GOT_EVENT) {
    static_cast<Stream*>(tag)->OnEvent(ok);
  }
}

}  // namespace weft::catalog
