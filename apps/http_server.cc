#include "http_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "weft/base/deadline.h"

namespace weft::apps {
namespace {

constexpr std::chrono::milliseconds kNoticeStop(100);

// A connection until a deadline, or until `stopped`.
class BoundedStream : public httplib::Stream {
 public:
  BoundedStream(socket_t socket, base::Deadline deadline,
                std::function<bool()> stopped)
      : socket_(socket), deadline_(deadline), stopped_(std::move(stopped)) {}

  bool is_readable() const override { return next_ < end_ || WaitFor(POLLIN); }
  bool is_writable() const override { return WaitFor(POLLOUT); }

  ssize_t read(char* out, size_t bytes) override {
    if (next_ == end_) {  // httplib asks for a byte at a time
      if (!WaitFor(POLLIN)) return -1;
      const ssize_t got = recv(socket_, buffer_.data(), buffer_.size(), 0);
      if (got <= 0) return got;
      next_ = 0;
      end_ = static_cast<size_t>(got);
    }
    const size_t given = std::min(bytes, end_ - next_);
    std::copy_n(buffer_.data() + next_, given, out);
    next_ += given;
    return static_cast<ssize_t>(given);
  }
  ssize_t write(const char* data, size_t bytes) override {
    if (!WaitFor(POLLOUT)) return -1;
    return send(socket_, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  // Nobody asks for them.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  bool WaitFor(short events) const {
    while (!deadline_.Passed() && !stopped_()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(
          std::min<std::chrono::nanoseconds>(deadline_.Remaining(),
                                             kNoticeStop));
      pollfd wanted{.fd = socket_, .events = events, .revents = 0};
      if (poll(&wanted, 1, static_cast<int>(left.count())) > 0) return true;
    }
    return false;
  }

  const socket_t socket_;
  const base::Deadline deadline_;
  const std::function<bool()> stopped_;
  std::array<char, 4096> buffer_;
  size_t next_ = 0;
  size_t end_ = 0;
};

class NewestFirst : public httplib::TaskQueue {
 public:
  explicit NewestFirst(size_t num_threads) {
    while (threads_.size() < num_threads) {
      threads_.emplace_back([this] { Work(); });
    }
  }
  void enqueue(std::function<void()> task) override {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }
  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      shut_down_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void Work() {
    while (true) {
      std::function<void()> task;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return shut_down_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.back());
        tasks_.pop_back();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  bool shut_down_ = false;
  std::vector<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

}  // namespace

HttpServer::HttpServer(std::size_t num_threads,
                       std::chrono::milliseconds patience)
    : patience_(patience) {
  new_task_queue = [num_threads] { return new NewestFirst(num_threads); };
}

bool HttpServer::process_and_close_socket(socket_t socket) {
  const auto stopped = [this] { return svr_sock_ == INVALID_SOCKET; };
  BoundedStream stream(socket, base::Deadline::After(patience_), stopped);
  bool closed = false;
  const bool done =
      stream.is_readable() &&
      process_request(stream, /*close_connection=*/true, closed, nullptr);
  ::shutdown(socket, SHUT_RDWR);
  ::close(socket);
  return done;
}

}  // namespace weft::apps
