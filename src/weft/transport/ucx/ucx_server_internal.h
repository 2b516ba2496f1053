// The passive side: one thread that lets peers reach this process's regions.
#ifndef WEFT_TRANSPORT_UCX_UCX_SERVER_INTERNAL_H_
#define WEFT_TRANSPORT_UCX_UCX_SERVER_INTERNAL_H_

#include <ucp/api/ucp.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "weft/transport/region_table.h"
#include "weft/transport/ucx/ucx_gather_internal.h"
#include "weft/transport/ucx/ucx_wire.h"
#include "weft/transport/ucx/ucx_worker_internal.h"

namespace weft::transport::ucx {

// Where no NIC does it, the bytes that peers read and write are moved by this
// thread, which checks each request against the regions. It sleeps on UCX's
// file descriptor and wakes at once for work. Destroying the server tells
// connected peers goodbye.
class Server {
 public:
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const std::shared_ptr<Context>& context, uint64_t instance,
      std::shared_ptr<const RegionTable> regions, memory::DeviceDriver* driver);
  ~Server();

  const std::string& address() const { return worker_->address(); }

 private:
  struct Client {
    ucp_ep_h endpoint = nullptr;  // null once closed
    bool lost = false;
    std::unique_ptr<GatherSender> gathers;
  };

  Server(uint64_t instance, std::shared_ptr<const RegionTable> regions,
         memory::DeviceDriver* driver)
      : instance_(instance), regions_(std::move(regions)), copier_(driver) {}

  static ucs_status_t OnRequest(void* arg, const void* header,
                                size_t header_bytes, void* data,
                                size_t data_bytes,
                                const ucp_am_recv_param_t* param);
  void Serve();
  // Writes the payload of a Put into its region, while the region is held.
  void HandlePut(const Request& request, absl::Span<const std::byte> payload);
  bool HandleInbox();
  void Handle(const Request& request);
  void Greet(const Request& request);
  void Answer(Client& client, const Reply& reply);
  // True when something moved.
  bool StepClients();
  void Close(Client& client);
  void SayGoodbye();

  const uint64_t instance_;
  const std::shared_ptr<const RegionTable> regions_;
  DeviceCopier copier_;
  std::atomic<bool> stop_ = false;
  int stop_event_ = -1;
  std::deque<Request> inbox_;
  // Before worker_: destroying the worker may still return their chunks.
  std::unordered_map<uint64_t, std::unique_ptr<Client>> clients_;
  std::unique_ptr<Worker> worker_;
  std::thread thread_;
};

}  // namespace weft::transport::ucx

#endif  // WEFT_TRANSPORT_UCX_UCX_SERVER_INTERNAL_H_
