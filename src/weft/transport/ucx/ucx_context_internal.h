// The UCX library as loaded: version, settings, context.
#ifndef WEFT_TRANSPORT_UCX_UCX_CONTEXT_INTERNAL_H_
#define WEFT_TRANSPORT_UCX_UCX_CONTEXT_INTERNAL_H_

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::transport::ucx {

// kUnavailable for everything that means a lost peer, else the nearest code;
// the message is "<what>: <UCX's words>".
absl::Status ToStatus(ucs_status_t status, std::string_view what);

// The segments that Context asks UCX for; its own are 8 KiB, which costs tcp
// half of its rate (docs/numbers.md).
inline constexpr int64_t kTcpSegmentBytes = int64_t{256} << 10;
inline constexpr int64_t kSharedMemorySegmentBytes = int64_t{64} << 10;

// Owns a UCP context. Thread-safe: workers of several threads share it.
class Context {
 public:
  // `settings` are UCX names without "UCX_" and win over the environment.
  // Weft's own defaults yield to the environment. `emulation`: whether UCX may
  // carry out Gets and Puts that no wire does by messages to itself.
  static absl::StatusOr<std::shared_ptr<Context>> Make(
      const std::vector<std::pair<std::string, std::string>>& settings,
      bool emulation);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  ucp_context_h get() const { return context_; }
  // "1.13.1", of the library that was loaded, not of the headers.
  static std::string Version();
  // OK when this UCX reads and writes memory of GPUs and can be kept from doing
  // so by messages, at a thousandth of the rate (1.21); else what it lacks and
  // how to get it.
  absl::Status CheckDeviceMemory() const;

 private:
  explicit Context(ucp_context_h context) : context_(context) {}
  ucp_context_h context_;
};

// While one lives, nobody is told what UCX says in this thread: for an attempt
// that may fail.
class QuietUcx {
 public:
  QuietUcx();
  ~QuietUcx();
  QuietUcx(const QuietUcx&) = delete;
  QuietUcx& operator=(const QuietUcx&) = delete;
};

}  // namespace weft::transport::ucx

#endif  // WEFT_TRANSPORT_UCX_UCX_CONTEXT_INTERNAL_H_
