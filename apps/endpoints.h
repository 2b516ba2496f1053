// What `publish`, `pull`, `plan` and the demo build a session from: the
// catalog connection and transports by name.
#ifndef WEFT_APPS_ENDPOINTS_H_
#define WEFT_APPS_ENDPOINTS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rank_store.h"
#include "weft/base/after_seconds.h"
#include "weft/catalog/grpc/client_access.h"
#include "weft/catalog/store.h"
#include "weft/transport/testing/fault_transport.h"
#include "weft/transport/transport.h"

namespace CLI {
class App;
}

namespace weft::apps {

inline constexpr char kDefaultCatalog[] = "127.0.0.1:6470";

// "HOST:PORT", or several with commas between them: servers of one catalog.
// What `access` leaves empty comes from the environment.
absl::StatusOr<std::shared_ptr<catalog::CatalogStore>> ConnectCatalog(
    const std::string& address, const catalog::ClientAccess& access = {});

// "NAME=VALUE" for each; kInvalidArgument for what is none, or twice there.
absl::StatusOr<catalog::Labels> ParseLabels(
    const std::vector<std::string>& words);

// --tls-ca, --tls-cert, --tls-key, --token-file, --insecure-tokens.
void AddAccessOptions(CLI::App& command, catalog::ClientAccess& access);

// "auto" = cuda for a rank on a GPU, then shm, then ucx; or one of these, or
// nixl.
// kInvalidArgument for another word, and for cuda without a GPU. With `faults`
// each is wrapped to misbehave on demand.
absl::StatusOr<std::vector<std::shared_ptr<transport::Transport>>>
MakeTransports(const std::string& choice, const DeviceChoice& device = {},
               std::shared_ptr<transport::FaultScript> faults = nullptr);

// What --timeout gives each wait.
using base::AfterSeconds;

// SIGINT and SIGTERM end a command at once, and its children with it, unless it
// asks for them: blocks them in this and all later threads and children. Call
// it before any thread starts.
void BlockStopSignals();
// Waits for one of them.
void WaitForStopSignal();
// Whether one has come, without waiting.
bool StopSignalCame();
// Call it after BlockStopSignals: from now on one of them ends the process as
// it would have, after `before` has run in a thread of its own.
void EndAtStopSignal(std::function<void()> before);

}  // namespace weft::apps

#endif  // WEFT_APPS_ENDPOINTS_H_
