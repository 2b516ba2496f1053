// A UCP worker and what one does with it: progress, sleep, close endpoints.
#ifndef WEFT_TRANSPORT_UCX_UCX_WORKER_INTERNAL_H_
#define WEFT_TRANSPORT_UCX_UCX_WORKER_INTERNAL_H_

#include <ucp/api/ucp.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/transport/ucx/ucx_context_internal.h"

namespace weft::transport::ucx {

// Progress calls without news before a worker sleeps: an answer that is under
// way costs less when it is awaited awake.
inline constexpr int kIdleStepsBeforeSleep = 64;
// A farewell is a courtesy: a peer that does not listen is dropped.
inline constexpr std::chrono::milliseconds kGoodbyeLimit{2};

// Used by one thread at a time. Callbacks run inside Progress. Destroying it
// ends everything that is in flight; no callback runs afterwards.
class Worker {
 public:
  static absl::StatusOr<std::unique_ptr<Worker>> Make(
      std::shared_ptr<Context> context);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  ucp_worker_h get() const { return worker_; }
  const std::string& address() const { return address_; }

  // True when something happened.
  bool Progress() { return ucp_worker_progress(worker_) != 0; }
  // Sleeps until the worker has something to do, `other_fd` (or -1) is
  // readable, or `longest` has passed. Returns at once when events wait.
  void Sleep(int other_fd, std::chrono::nanoseconds longest);
  // Progresses until `done`, which is asked after each step. False when the
  // deadline passed first.
  bool ProgressUntil(absl::FunctionRef<bool()> done, base::Deadline deadline);

  // Messages of an id without a handler of its own are dropped.
  absl::Status SetHandler(unsigned id, ucp_am_recv_callback_t handler,
                          void* arg);
  // `on_error` gets `arg` when the peer is lost; it must only take a note.
  absl::StatusOr<ucp_ep_h> Connect(std::string_view address,
                                   ucp_err_handler_cb_t on_error, void* arg);
  // Sends `bytes` as a whole, owned by the message until it has left. Errors
  // that come later show at the endpoint.
  absl::Status Send(ucp_ep_h endpoint, unsigned id, std::string bytes);
  // Makes progress until `deadline`, so that messages leave before their
  // endpoint is closed by force. Not a flush: UCX 1.13's tcp ends the process
  // (assertion comp->count > 0) when a flush meets a peer that goes away at
  // that moment, and both ends of a farewell often do.
  void PushOut(base::Deadline deadline);
  // Closes without asking the peer; what is in flight ends with an error.
  void CloseByForce(ucp_ep_h endpoint);

 private:
  Worker(std::shared_ptr<Context> context, ucp_worker_h worker)
      : context_(std::move(context)), worker_(worker) {}

  const std::shared_ptr<Context> context_;
  const ucp_worker_h worker_;
  int event_fd_ = -1;  // UCX's own
  std::string address_;
};

// The transports that an endpoint uses, "posix,cma,tcp", in order of lanes.
// Empty if this UCX prints its endpoints in an unknown way.
std::string DescribeLanes(ucp_ep_h endpoint);

// What carries an endpoint's bytes, by what DescribeLanes says.
enum class Wire { kTcp, kSharedMemory, kRdma };
Wire FastestWire(const std::string& lanes);

// Payload bytes of the messages that carry Gets, Puts and Gathers: with its
// headers each fits one segment of UCX as Context sets them, so that it is
// neither cut nor put together again (two copies less; and UCX 1.13 ends the
// process on a message cut in several of 64 KiB through posix).
int64_t MessageBytes(Wire wire);

}  // namespace weft::transport::ucx

#endif  // WEFT_TRANSPORT_UCX_UCX_WORKER_INTERNAL_H_
