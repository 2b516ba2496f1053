// One message at a time, with at most one file descriptor, over an abstract
// Unix socket. SOCK_SEQPACKET keeps message boundaries.
#ifndef WEFT_TRANSPORT_SHM_SHM_SOCKET_H_
#define WEFT_TRANSPORT_SHM_SHM_SOCKET_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"

namespace weft::transport::shm {

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { Reset(); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept;
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void Reset();

 private:
  int fd_ = -1;
};

// The requests of a peer and the answers of the service thread.
struct Request {
  enum class Kind : uint8_t { kHello = 1, kImport = 2 };
  Kind kind = Kind::kHello;
  uint64_t id = 0;        // echoed, so that a late answer is not mistaken
  uint64_t instance = 0;  // of the endpoint that is meant
  uint64_t slot = 0;
  uint64_t generation = 0;
};
struct Answer {
  uint64_t id = 0;
  absl::Status status;
  // Of the region, for kImport.
  int64_t size_bytes = 0;
  uint64_t address = 0;             // in the owner's address space
  int64_t buffer_offset_bytes = 0;  // inside the file, when one is passed
};

std::string EncodeRequest(const Request& request);
absl::StatusOr<Request> DecodeRequest(std::string_view bytes);
std::string EncodeAnswer(const Answer& answer);
absl::StatusOr<Answer> DecodeAnswer(std::string_view bytes);

// A listening socket under the abstract name `name`.
absl::StatusOr<Fd> Listen(const std::string& name);
// kUnavailable when nobody listens.
absl::StatusOr<Fd> ConnectTo(const std::string& name, base::Deadline deadline);

// Sends without blocking; `passed_fd` may be -1.
absl::Status Send(int socket, std::string_view bytes, int passed_fd);

struct Received {
  std::string bytes;
  Fd fd;  // empty when none was passed
};
// What has arrived; kUnavailable when the other end hung up,
// kDeadlineExceeded when nothing came in time.
absl::StatusOr<Received> Receive(int socket, base::Deadline deadline);

}  // namespace weft::transport::shm

#endif  // WEFT_TRANSPORT_SHM_SHM_SOCKET_H_
