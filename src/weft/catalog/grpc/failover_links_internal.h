// The connection that a failover client uses at the moment, and the
// attachments that must follow it from server to server.
#ifndef WEFT_CATALOG_GRPC_FAILOVER_LINKS_INTERNAL_H_
#define WEFT_CATALOG_GRPC_FAILOVER_LINKS_INTERNAL_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/base/deadline.h"
#include "weft/catalog/grpc/client_streams_internal.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// Thread-safe. Shared by the client, its attachments and its watches.
class FailoverLinks : public std::enable_shared_from_this<FailoverLinks> {
 public:
  struct Link {
    uint64_t life = 0;
    std::shared_ptr<Connection> connection;
    std::shared_ptr<CatalogStore> store;
  };
  // An attachment of one link; `over` once its stream has ended.
  struct Stream {
    std::shared_ptr<Attachment> attachment;
    std::shared_ptr<std::atomic<bool>> over;
  };
  // One worker's attachment over all servers that have held it.
  struct Held {
    Registration worker;
    Stream inner;
    uint64_t life = 0;    // of the link that inner is on
    bool broken = false;  // inner is of no use: the keeper is at it
    bool ended = false;
    bool in_order = false;  // when it has ended
    absl::Status why;       // it is broken still
    base::Deadline give_up = base::Deadline::Infinite();
    absl::Status lost;  // not OK: it is over
  };

  FailoverLinks(std::vector<std::string> addresses, Door door,
                std::chrono::nanoseconds connect_timeout,
                std::chrono::nanoseconds reconnect_within);
  void Start();
  void Close();

  base::Deadline GiveUp(base::Deadline deadline) const;
  // Connects if need be; tries each address once.
  absl::StatusOr<Link> Get(base::Deadline deadline);
  // The link is broken: all that is on it moves to another one.
  void Break(uint64_t life);
  // Until every attachment is on a link again, or lost; else why not.
  absl::Status AwaitAttached(base::Deadline deadline);
  // Whether no attachment has been lost or is being repaired.
  bool AllAttached();
  // A moment before trying again; ends early when something has changed.
  void Pause(base::Deadline deadline);

  void Remember(const Registration& worker);
  // Generation 0 if it is not known.
  Registration Recall(const std::string& worker_id);

  absl::StatusOr<Stream> Open(const Link& link, const Registration& worker,
                              bool again, base::Deadline deadline);
  std::shared_ptr<Held> Hold(const Registration& worker, const Link& link,
                             Stream stream);
  void End(const std::shared_ptr<Held>& held, bool in_order);
  absl::Status Health(const std::shared_ptr<Held>& held);
  // It is over, and no server takes it again.
  bool IsLost(const std::shared_ptr<Held>& held);

 private:
  void RunKeeper();
  std::shared_ptr<Held> NextBroken();  // mutex_ is held
  void Repair(const std::shared_ptr<Held>& held);
  void MarkBroken(Held& held);  // mutex_ is held

  const std::vector<std::string> addresses_;
  const Door door_;
  const std::chrono::nanoseconds connect_timeout_;
  const std::chrono::nanoseconds reconnect_within_;

  std::mutex connecting_;  // one at a time; before mutex_
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
  Link link_;  // life 0: none
  uint64_t last_life_ = 0;
  std::size_t next_address_ = 0;
  std::set<std::shared_ptr<Held>> held_;
  std::map<std::string, uint64_t> generations_;
  std::thread keeper_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_FAILOVER_LINKS_INTERNAL_H_
