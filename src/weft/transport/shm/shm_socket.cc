#include "weft/transport/shm/shm_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"

namespace weft::transport::shm {
namespace {

constexpr size_t kMaxMessageBytes = 4096;

absl::Status SystemError(std::string_view call) {
  return absl::UnavailableError(
      absl::StrCat(std::string(call), ": ", std::strerror(errno)));
}

struct Name {
  sockaddr_un address = {};
  socklen_t length = 0;
};

Name AbstractName(const std::string& name) {
  Name result;
  result.address.sun_family = AF_UNIX;
  // A leading zero byte makes the name abstract: it vanishes with its socket.
  const size_t bytes =
      std::min(name.size(), sizeof(result.address.sun_path) - 1);
  std::memcpy(result.address.sun_path + 1, name.data(), bytes);
  result.length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + bytes);
  return result;
}

absl::StatusOr<Fd> MakeSocket() {
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return SystemError("socket");
  return fd;
}

int PollMilliseconds(base::Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline.Remaining() + std::chrono::microseconds(999));
  return static_cast<int>(std::min<int64_t>(left.count(), 1'000'000));
}

Fd TakePassedFd(msghdr& message) {
  Fd taken;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    int fd;
    std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    taken = Fd(fd);
  }
  return taken;
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void Fd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::string EncodeRequest(const Request& request) {
  base::ByteWriter writer;
  writer.U8(static_cast<uint8_t>(request.kind));
  writer.U64(request.id);
  writer.U64(request.instance);
  writer.U64(request.slot);
  writer.U64(request.generation);
  return writer.Take();
}

absl::StatusOr<Request> DecodeRequest(std::string_view bytes) {
  base::ByteReader reader(bytes);
  Request request;
  const uint8_t kind = reader.U8();
  request.kind = static_cast<Request::Kind>(kind);
  request.id = reader.U64();
  request.instance = reader.U64();
  request.slot = reader.U64();
  request.generation = reader.U64();
  WEFT_RETURN_IF_ERROR(reader.Finish("request"));
  if (request.kind != Request::Kind::kHello &&
      request.kind != Request::Kind::kImport) {
    return absl::DataLossError(
        absl::StrCat("request of unknown kind ", static_cast<int>(kind)));
  }
  return request;
}

std::string EncodeAnswer(const Answer& answer) {
  base::ByteWriter writer;
  writer.U64(answer.id);
  writer.U32(static_cast<uint32_t>(answer.status.raw_code()));
  const absl::string_view message = answer.status.message();
  writer.Bytes(std::string_view(message.data(), message.size()));
  writer.I64(answer.size_bytes);
  writer.U64(answer.address);
  writer.I64(answer.buffer_offset_bytes);
  return writer.Take();
}

absl::StatusOr<Answer> DecodeAnswer(std::string_view bytes) {
  base::ByteReader reader(bytes);
  Answer answer;
  answer.id = reader.U64();
  const auto code = static_cast<absl::StatusCode>(reader.U32());
  answer.status = absl::Status(code, std::string(reader.Bytes()));
  answer.size_bytes = reader.I64();
  answer.address = reader.U64();
  answer.buffer_offset_bytes = reader.I64();
  WEFT_RETURN_IF_ERROR(reader.Finish("answer"));
  return answer;
}

absl::StatusOr<Fd> Listen(const std::string& name) {
  WEFT_ASSIGN_OR_RETURN(Fd fd, MakeSocket());
  const Name bound = AbstractName(name);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&bound.address),
           bound.length) != 0) {
    return SystemError("bind");
  }
  if (listen(fd.get(), SOMAXCONN) != 0) return SystemError("listen");
  return fd;
}

absl::StatusOr<Fd> ConnectTo(const std::string& name, base::Deadline deadline) {
  WEFT_ASSIGN_OR_RETURN(Fd fd, MakeSocket());
  const Name target = AbstractName(name);
  while (connect(fd.get(), reinterpret_cast<const sockaddr*>(&target.address),
                 target.length) != 0) {
    // EAGAIN: the listener's backlog is full. No file descriptor tells when it
    // drains, so the only way is to ask again.
    if (errno != EAGAIN && errno != EINTR) return SystemError("connect");
    WEFT_RETURN_IF_ERROR(deadline.Check("connecting"));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return fd;
}

absl::Status Send(int socket, std::string_view bytes, int passed_fd) {
  iovec data = {const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (passed_fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &passed_fd, sizeof(int));
  }
  while (sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno != EINTR) return SystemError("sendmsg");
  }
  return absl::OkStatus();
}

absl::StatusOr<Received> Receive(int socket, base::Deadline deadline) {
  Received received;
  received.bytes.resize(kMaxMessageBytes);
  while (true) {
    iovec data = {received.bytes.data(), received.bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t bytes =
        recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (bytes > 0) {
      received.fd = TakePassedFd(message);
      received.bytes.resize(static_cast<size_t>(bytes));
      return received;
    }
    if (bytes == 0) return absl::UnavailableError("the other end hung up");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return SystemError("recvmsg");
    WEFT_RETURN_IF_ERROR(deadline.Check("waiting for an answer"));
    pollfd waiting = {socket, POLLIN | POLLRDHUP, 0};
    poll(&waiting, 1, PollMilliseconds(deadline));
  }
}

}  // namespace weft::transport::shm
