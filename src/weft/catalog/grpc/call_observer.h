// Told of every call that a catalog server takes, for metrics.
#ifndef WEFT_CATALOG_GRPC_CALL_OBSERVER_H_
#define WEFT_CATALOG_GRPC_CALL_OBSERVER_H_

#include <string_view>

#include "absl/status/status.h"

namespace weft::catalog {

// Called on the threads of the calls. `method` is a name of catalog.proto, or
// "other": a client cannot make up names. It lives as long as the program.
class CallObserver {
 public:
  virtual ~CallObserver() = default;
  virtual void OnStart(std::string_view method) = 0;
  // kCancelled for a call whose client went before its answer.
  virtual void OnEnd(std::string_view method, absl::StatusCode code,
                     double seconds) = 0;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_CALL_OBSERVER_H_
