// The messages of one agent, sorted: an agent has one queue of notifications,
// here each client and the server have theirs.
#ifndef WEFT_TRANSPORT_NIXL_NIXL_MAIL_INTERNAL_H_
#define WEFT_TRANSPORT_NIXL_NIXL_MAIL_INTERNAL_H_

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "weft/transport/nixl/nixl_agent_internal.h"
#include "weft/transport/nixl/nixl_wire.h"

namespace weft::transport::nixl {

// Thread-safe.
class Mail {
 public:
  explicit Mail(std::shared_ptr<Agent> agent) : agent_(std::move(agent)) {}

  // To this very agent without NIXL, which knows no messages to oneself.
  absl::Status Send(const std::string& remote, const Message& message);

  // Messages that come for a client are kept from Open to Close.
  void Open(uint64_t client);
  void Close(uint64_t client);
  // What has come for it, in order.
  std::vector<Message> Take(uint64_t client);
  std::vector<Message> TakeForOwner();
  // Until something is there for the owner, at the longest so long. What NIXL
  // holds shows only when somebody takes, so it is not waited for.
  void WaitForOwner(std::chrono::nanoseconds longest);
  void WakeOwner();

 private:
  void Pump();
  void SortLocked(Message message);

  const std::shared_ptr<Agent> agent_;
  std::mutex mutex_;
  std::condition_variable for_owner_;
  bool woken_ = false;
  std::vector<Message> owner_;
  std::unordered_map<uint64_t, std::vector<Message>> clients_;
};

}  // namespace weft::transport::nixl

#endif  // WEFT_TRANSPORT_NIXL_NIXL_MAIL_INTERNAL_H_
