#include "chaos_relay.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"

namespace weft::apps {
namespace {

constexpr size_t kMostHeldBytes = 256 << 10;
constexpr size_t kSlowBytes = 1 << 10;
constexpr std::chrono::milliseconds kSlowPause(20);

sockaddr_in Local(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// On `port`, or on any if it is 0: (descriptor, port).
absl::StatusOr<std::pair<int, int>> Listen(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address = Local(port);
  socklen_t length = sizeof(address);
  if (fd < 0 ||
      bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd, 64) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot listen on 127.0.0.1: ", std::strerror(error)));
  }
  return std::pair(fd, static_cast<int>(ntohs(address.sin_port)));
}

void NoDelay(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

bool WouldBlock() {
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINPROGRESS ||
         errno == EINTR;
}

}  // namespace

absl::StatusOr<int> FreePort() {
  constexpr uint32_t kLowest = 10'000;
  static std::atomic<uint32_t> next = std::random_device()();
  uint32_t first_given = 32'768;  // by the kernel, to whoever takes any
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first_given;
  if (first_given <= kLowest) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no port of 127.0.0.1 is left: net.ipv4.ip_local_port_range begins at ",
        first_given, ", it must be above ", kLowest));
  }
  const uint32_t count = first_given - kLowest;
  for (uint32_t attempt = 0; attempt < count; ++attempt) {
    const auto port = static_cast<int>(kLowest + next++ % count);
    const auto listener = Listen(port);
    if (!listener.ok()) continue;  // somebody has it
    close(listener->first);
    return port;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all ports of 127.0.0.1 from ", kLowest, " to ",
                   first_given - 1, " are taken"));
}

absl::StatusOr<std::unique_ptr<ChaosRelay>> ChaosRelay::Start(int target_port) {
  std::unique_ptr<ChaosRelay> relay(new ChaosRelay);
  WEFT_ASSIGN_OR_RETURN(const auto listener, Listen(0));
  relay->target_port_ = target_port;
  relay->listener_ = listener.first;
  relay->port_ = listener.second;
  relay->wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  relay->thread_ = std::thread([raw = relay.get()] { raw->Run(); });
  return relay;
}

ChaosRelay::~ChaosRelay() {
  stop_ = true;
  SetMode(Mode::kPass);
  if (thread_.joinable()) thread_.join();
  for (Pair& pair : pairs_) Close(pair, /*reset=*/true);
  if (listener_ >= 0) close(listener_);
  if (wake_ >= 0) close(wake_);
}

std::string ChaosRelay::address() const {
  return absl::StrCat("127.0.0.1:", port_);
}

void ChaosRelay::SetMode(Mode mode) {
  mode_ = mode;
  const uint64_t one = 1;
  static_cast<void>(!write(wake_, &one, sizeof(one)));
}

void ChaosRelay::Close(Pair& pair, bool reset) {
  for (int* fd : {&pair.client, &pair.server}) {
    if (*fd < 0) continue;
    if (reset) {
      const linger now{1, 0};
      setsockopt(*fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    close(*fd);
    *fd = -1;
  }
}

void ChaosRelay::Accept(Mode mode) {
  while (true) {
    Pair pair;
    pair.client =
        accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (pair.client < 0) return;
    if (mode == Mode::kReset) {
      Close(pair, /*reset=*/true);
      continue;
    }
    pair.server =
        socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const sockaddr_in address = Local(target_port_);
    const int connected =
        connect(pair.server, reinterpret_cast<const sockaddr*>(&address),
                sizeof(address));
    if (connected != 0 && !WouldBlock()) {
      Close(pair, /*reset=*/true);
      continue;
    }
    NoDelay(pair.client);
    NoDelay(pair.server);
    pair.there = {pair.client, pair.server, "", false};
    pair.back = {pair.server, pair.client, "", false};
    pairs_.push_back(std::move(pair));
  }
}

namespace {

// False when the connection is broken.
template <typename Flow>
bool Read(Flow& flow, size_t most_bytes) {
  char block[16 << 10];
  const ssize_t got =
      read(flow.from, block, std::min(most_bytes, sizeof(block)));
  if (got > 0) {
    flow.held.append(block, static_cast<size_t>(got));
  } else if (got == 0) {
    flow.at_end = true;
  } else if (!WouldBlock()) {
    return false;
  }
  return true;
}

template <typename Flow>
bool Write(Flow& flow) {
  if (flow.held.empty()) return !flow.at_end;
  const ssize_t put =
      send(flow.to, flow.held.data(), flow.held.size(), MSG_NOSIGNAL);
  if (put > 0) flow.held.erase(0, static_cast<size_t>(put));
  return put >= 0 || WouldBlock();
}

}  // namespace

void ChaosRelay::PollPairs(Mode mode) {
  std::vector<pollfd> polled = {{wake_, POLLIN, 0}, {listener_, POLLIN, 0}};
  for (Pair& pair : pairs_) {
    for (const auto& [in, out] : {std::pair(&pair.there, &pair.back),
                                  std::pair(&pair.back, &pair.there)}) {
      short events = 0;
      if (!in->at_end && in->held.size() < kMostHeldBytes) events |= POLLIN;
      if (!out->held.empty()) events |= POLLOUT;
      polled.push_back({in->from, events, 0});
    }
  }
  // Silent: neither looks at the connections nor takes new ones.
  const size_t count = mode == Mode::kSilent ? 1 : polled.size();
  poll(polled.data(), count, 1000);
  uint64_t drained = 0;
  static_cast<void>(!read(wake_, &drained, sizeof(drained)));
  if (mode == Mode::kSilent || mode_ != mode) return;
  size_t at = 2;
  for (Pair& pair : pairs_) {
    const size_t most = mode == Mode::kSlow ? kSlowBytes : kMostHeldBytes;
    const short client = polled[at++].revents;
    const short server = polled[at++].revents;
    constexpr short kReadable = POLLIN | POLLHUP | POLLERR;
    if (!pair.there.at_end && (client & kReadable) != 0) {
      pair.broken |= !Read(pair.there, most);
    }
    if (!pair.back.at_end && (server & kReadable) != 0) {
      pair.broken |= !Read(pair.back, most);
    }
    if (!pair.there.held.empty() || pair.there.at_end) {
      pair.broken |= !Write(pair.there);
    }
    if (!pair.back.held.empty() || pair.back.at_end) {
      pair.broken |= !Write(pair.back);
    }
  }
  Accept(mode);
}

void ChaosRelay::Run() {
  while (!stop_) {
    const Mode mode = mode_;
    PollPairs(mode);
    for (auto pair = pairs_.begin(); pair != pairs_.end();) {
      if (pair->broken || mode == Mode::kReset) {
        Close(*pair, mode == Mode::kReset);
        pair = pairs_.erase(pair);
      } else {
        ++pair;
      }
    }
    if (mode == Mode::kSlow) std::this_thread::sleep_for(kSlowPause);
  }
}

}  // namespace weft::apps
