// A relay of TCP connections that tests can hold up.
#ifndef WEFT_CATALOG_TESTING_VALVE_H_
#define WEFT_CATALOG_TESTING_VALVE_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace weft::catalog::testing {

inline sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// Carries bytes to a port and back, and can be told to hold them. The first
// `num_silent` connections are taken and hear nothing.
class Valve {
 public:
  explicit Valve(int target_port, int num_silent = 0)
      : target_port_(target_port),
        num_silent_(num_silent),
        listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), bytes), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    EXPECT_EQ(
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &bytes),
        0);
    port_ = ntohs(address.sin_port);
    threads_.emplace_back([this] { Accept(); });
  }
  ~Valve() {
    std::vector<std::thread> threads;
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      changed_.notify_all();
      shutdown(listener_, SHUT_RDWR);
      for (const int each : sockets_) shutdown(each, SHUT_RDWR);
      threads.swap(threads_);
    }
    for (std::thread& each : threads) each.join();
    for (const int each : sockets_) close(each);
    close(listener_);
  }
  int port() const { return port_; }
  void Hold(bool hold) {
    const std::lock_guard lock(mutex_);
    held_ = hold;
    changed_.notify_all();
  }

 private:
  void Accept() {
    while (true) {
      const int client = accept(listener_, nullptr, nullptr);
      const std::lock_guard lock(mutex_);
      if (client < 0 || closed_) {
        if (client >= 0) close(client);
        return;
      }
      sockets_.push_back(client);
      if (num_silent_ > 0) {
        --num_silent_;
        continue;
      }
      const int server = socket(AF_INET, SOCK_STREAM, 0);
      sockets_.push_back(server);
      const sockaddr_in address = Loopback(target_port_);
      if (connect(server, reinterpret_cast<const sockaddr*>(&address),
                  sizeof(address)) != 0) {
        shutdown(client, SHUT_RDWR);
        continue;
      }
      threads_.emplace_back([=, this] { Carry(client, server); });
      threads_.emplace_back([=, this] { Carry(server, client); });
    }
  }
  void Carry(int from, int to) {
    std::array<char, 4096> bytes;
    while (true) {
      const ssize_t count = recv(from, bytes.data(), bytes.size(), 0);
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return !held_ || closed_; });
      }
      if (count <= 0) break;
      if (send(to, bytes.data(), static_cast<size_t>(count), MSG_NOSIGNAL) !=
          count) {
        break;
      }
    }
    shutdown(to, SHUT_RDWR);
  }

  const int target_port_;
  int num_silent_;
  const int listener_;
  int port_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  bool closed_ = false;
  std::vector<int> sockets_;
  std::vector<std::thread> threads_;
};

}  // namespace weft::catalog::testing

#endif  // WEFT_CATALOG_TESTING_VALVE_H_
