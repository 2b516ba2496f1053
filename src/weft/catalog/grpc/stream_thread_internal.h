// Drives the streams of one connection, by one thread.
//
// In a process one thread polls for all that gRPC receives, and wakes whom it
// is for. One that always polled would take the answers of unary calls, too,
// and a caller would be awake two wake-ups after his answer came, not one: each
// takes 50 us and more once the processors sleep. So this thread polls without
// pause only while somebody waits for a stream. Else it looks some times a
// second, which is soon enough to see the end of an attachment, and callers
// poll for themselves.
#ifndef WEFT_CATALOG_GRPC_STREAM_THREAD_INTERNAL_H_
#define WEFT_CATALOG_GRPC_STREAM_THREAD_INTERNAL_H_

#include <grpcpp/completion_queue.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace weft::catalog {

// Thread-safe. Streams end before it does.
class StreamThread {
 public:
  // The tag of each operation of a stream; one operation at a time.
  class Stream {
   public:
    // On the thread. May destroy nothing that waits for the thread.
    virtual void OnEvent(bool ok) = 0;

   protected:
    ~Stream() = default;
  };

  StreamThread() = default;
  ~StreamThread();
  StreamThread(const StreamThread&) = delete;
  StreamThread& operator=(const StreamThread&) = delete;

  grpc::CompletionQueue* queue() { return &queue_; }

  // Somebody waits for what a stream says next. The first one starts the
  // thread.
  class Attention {
   public:
    explicit Attention(StreamThread& thread);
    ~Attention();
    Attention(const Attention&) = delete;
    Attention& operator=(const Attention&) = delete;

   private:
    StreamThread& thread_;
  };

 private:
  void Run();
  void Poll(std::chrono::nanoseconds time);

  grpc::CompletionQueue queue_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int waiting_ = 0;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_STREAM_THREAD_INTERNAL_H_
