// Answers NVIDIA ModelExpress's own clients (docs/modelexpress.md).
#ifndef WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_SERVER_H_
#define WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace weft::catalog {

struct ModelExpressServerOptions {
  // Milliseconds since 1970, of a clock that never goes back; by default the
  // wall clock at the start, and what a steady clock has counted since.
  std::function<int64_t()> now_ms = nullptr;
  // One line for each version that is withdrawn or given up.
  std::function<void(const std::string&)> on_note = nullptr;
};

// Serves model_express.p2p.P2pService and, of the revision that release 0.7
// speaks, model_express.refit.RefitService. What they hold is in this process
// and ends with it. Threads: all methods may be called from any thread.
class ModelExpressServer {
 public:
  // Listens on "HOST:PORT"; port 0 is a free one. kInvalidArgument for a
  // malformed address, kAlreadyExists if it cannot be bound.
  static absl::StatusOr<std::unique_ptr<ModelExpressServer>> Start(
      const std::string& listen_address,
      const ModelExpressServerOptions& options = {});

  // Calls Shutdown.
  ~ModelExpressServer();
  ModelExpressServer(const ModelExpressServer&) = delete;
  ModelExpressServer& operator=(const ModelExpressServer&) = delete;

  // The port that it listens on.
  int port() const;

  // Ends every call. Does nothing the second time.
  void Shutdown();

 private:
  struct Impl;
  explicit ModelExpressServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_MODELEXPRESS_MODELEXPRESS_SERVER_H_
