// Serves a CatalogStore over gRPC (docs/formats/catalog.md).
#ifndef WEFT_CATALOG_GRPC_CATALOG_SERVER_H_
#define WEFT_CATALOG_GRPC_CATALOG_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "weft/catalog/access/gate.h"
#include "weft/catalog/grpc/call_observer.h"
#include "weft/catalog/grpc/tls.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// Threads that a server keeps for the next calls, which come in bursts, one
// from each rank (docs/decisions/0020-threads-of-a-call.md).
inline constexpr int kWaitingThreads = 16;

struct CatalogServerOptions {
  ServerTls tls{};
  GateOptions gate{};
  // Whether clients may send tokens without TLS, for all on the way to read.
  bool insecure_tokens = false;
  int64_t max_watches = 65'536;
  int64_t max_message_bytes = kMaxMessageBytes;
  CallObserver* observer = nullptr;  // if given, must outlive the server
};

// Threads: all methods may be called from any thread.
class CatalogServer {
 public:
  // Listens on "HOST:PORT"; an empty host is every address of this machine,
  // port 0 a free one. `store` must outlive the server. kInvalidArgument for a
  // malformed address, certificates or tokens that are none, and tokens without
  // TLS, kAlreadyExists if the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<CatalogServer>> Start(
      const std::string& listen_address, CatalogStore* store,
      const CatalogServerOptions& options = {});

  // Calls Shutdown.
  ~CatalogServer();
  CatalogServer(const CatalogServer&) = delete;
  CatalogServer& operator=(const CatalogServer&) = delete;

  // The port that it listens on.
  int port() const;

  // Ends every call and stream, then waits until their handlers have returned;
  // the workers attached through this server are dead then. Does nothing the
  // second time.
  void Shutdown();

 private:
  struct Impl;
  explicit CatalogServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_CATALOG_SERVER_H_
