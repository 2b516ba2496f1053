#include <poll.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "weft/base/status.h"
#include "weft/transport/ucx/ucx_wire.h"
#include "weft/transport/ucx/ucx_worker_internal.h"

namespace weft::transport::ucx {
namespace {

// Closing by force is local work; this only bounds a defect of the library.
constexpr std::chrono::seconds kCloseLimit{5};

void DeleteSentBytes(void* request, ucs_status_t, void* user_data) {
  delete static_cast<std::string*>(user_data);
  ucp_request_free(request);
}

ucs_status_t DropMessage(void*, const void*, size_t, void*, size_t,
                         const ucp_am_recv_param_t*) {
  return UCS_OK;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Make(
    std::shared_ptr<Context> context) {
  ucp_worker_params_t params = {};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  // Made by one thread and driven by another, never by two at once.
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h handle = nullptr;
  ucs_status_t status = ucp_worker_create(context->get(), &params, &handle);
  if (status != UCS_OK) return ToStatus(status, "making a ucx worker");
  std::unique_ptr<Worker> worker(new Worker(std::move(context), handle));
  status = ucp_worker_get_efd(handle, &worker->event_fd_);
  if (status != UCS_OK) return ToStatus(status, "asking for ucx events");
  ucp_worker_attr_t attributes = {};
  attributes.field_mask = UCP_WORKER_ATTR_FIELD_ADDRESS;
  status = ucp_worker_query(handle, &attributes);
  if (status != UCS_OK) return ToStatus(status, "asking for a ucx address");
  worker->address_.assign(reinterpret_cast<const char*>(attributes.address),
                          attributes.address_length);
  ucp_worker_release_address(handle, attributes.address);
  // A peer with the address of a worker that is gone may reach this one, for
  // shared memory names are used again; UCX 1.13 crashes on a message that
  // nobody expects.
  for (const unsigned id : {kRequestId, kReplyId, kDataId}) {
    WEFT_RETURN_IF_ERROR(worker->SetHandler(id, &DropMessage, nullptr));
  }
  return worker;
}

Worker::~Worker() { ucp_worker_destroy(worker_); }

void Worker::Sleep(int other_fd, std::chrono::nanoseconds longest) {
  if (ucp_worker_arm(worker_) != UCS_OK) return;  // events wait
  pollfd waiting[2] = {{event_fd_, POLLIN, 0}, {other_fd, POLLIN, 0}};
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(longest).count();
  poll(waiting, 2,
       static_cast<int>(std::clamp<int64_t>(milliseconds, 1, 1'000'000)));
}

bool Worker::ProgressUntil(absl::FunctionRef<bool()> done,
                           base::Deadline deadline) {
  int idle_steps = 0;
  while (!done()) {
    if (Progress()) {
      idle_steps = 0;
    } else if (++idle_steps > kIdleStepsBeforeSleep) {
      if (deadline.Passed()) return false;
      Sleep(-1, std::min<std::chrono::nanoseconds>(
                    deadline.Remaining(), std::chrono::milliseconds(100)));
    }
  }
  return true;
}

absl::Status Worker::SetHandler(unsigned id, ucp_am_recv_callback_t handler,
                                void* arg) {
  ucp_am_handler_param_t params = {};
  params.field_mask =
      UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = id;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  params.cb = handler;
  params.arg = arg;
  return ToStatus(ucp_worker_set_am_recv_handler(worker_, &params),
                  "setting a ucx message handler");
}

absl::StatusOr<ucp_ep_h> Worker::Connect(std::string_view address,
                                         ucp_err_handler_cb_t on_error,
                                         void* arg) {
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {on_error, arg};
  ucp_ep_h endpoint = nullptr;
  const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint);
  if (status != UCS_OK) return ToStatus(status, "making a ucx endpoint");
  return endpoint;
}

absl::Status Worker::Send(ucp_ep_h endpoint, unsigned id, std::string bytes) {
  auto owned = std::make_unique<std::string>(std::move(bytes));
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA;
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  params.cb.send = DeleteSentBytes;
  params.user_data = owned.get();
  const ucs_status_ptr_t request = ucp_am_send_nbx(
      endpoint, id, nullptr, 0, owned->data(), owned->size(), &params);
  if (UCS_PTR_IS_ERR(request)) {
    return ToStatus(UCS_PTR_STATUS(request), "sending a ucx message");
  }
  if (request != nullptr) {
    static_cast<void>(owned.release());  // deleted by the callback
  }
  return absl::OkStatus();
}

void Worker::PushOut(base::Deadline deadline) {
  ProgressUntil([] { return false; }, deadline);
}

void Worker::CloseByForce(ucp_ep_h endpoint) {
  ucp_request_param_t params = {};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &params);
  if (!UCS_PTR_IS_PTR(request)) return;
  ProgressUntil(
      [request] { return ucp_request_check_status(request) != UCS_INPROGRESS; },
      base::Deadline::After(kCloseLimit));
  ucp_request_free(request);
}

Wire FastestWire(const std::string& lanes) {
  Wire wire = Wire::kTcp;
  for (const absl::string_view lane : absl::StrSplit(lanes, ',')) {
    if (lane == "posix" || lane == "sysv" || lane == "xpmem" ||
        lane == "self") {
      return Wire::kSharedMemory;
    }
    if (absl::StartsWith(lane, "rc") || absl::StartsWith(lane, "dc") ||
        absl::StartsWith(lane, "ud") || absl::StartsWith(lane, "srd")) {
      wire = Wire::kRdma;
    }
  }
  return wire;
}

int64_t MessageBytes(Wire wire) {
  constexpr int64_t kHeadroomBytes = 2048;
  return (wire == Wire::kSharedMemory ? kSharedMemorySegmentBytes
                                      : kTcpSegmentBytes) -
         kHeadroomBytes;
}

std::string DescribeLanes(ucp_ep_h endpoint) {
  char* text = nullptr;
  size_t text_bytes = 0;
  FILE* stream = open_memstream(&text, &text_bytes);
  if (stream == nullptr) return "";
  ucp_ep_print_info(endpoint, stream);
  std::fclose(stream);
  const std::string printed(text, text_bytes);
  std::free(text);
  // Lines such as "#   lane[0]:  3:posix/memory.0 md[2] -> ...".
  std::vector<std::string> transports;
  for (const absl::string_view line : absl::StrSplit(printed, '\n')) {
    const size_t lane = line.find("lane[");
    if (lane == absl::string_view::npos) continue;
    const std::vector<std::string> words =
        absl::StrSplit(line.substr(lane), ' ', absl::SkipEmpty());
    if (words.size() < 2) continue;
    std::string name = words[1].substr(words[1].find(':') + 1);
    name = name.substr(0, name.find('/'));
    if (std::find(transports.begin(), transports.end(), name) ==
        transports.end()) {
      transports.push_back(name);
    }
  }
  return absl::StrJoin(transports, ",");
}

}  // namespace weft::transport::ucx
