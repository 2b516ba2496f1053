// An interceptor of gRPC that tells a CallObserver of each call.
#ifndef WEFT_CATALOG_GRPC_CALL_WATCHER_INTERNAL_H_
#define WEFT_CATALOG_GRPC_CALL_WATCHER_INTERNAL_H_

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "weft/catalog/grpc/call_observer.h"

namespace weft::catalog {

// `observer` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
MakeCallWatcher(CallObserver* observer);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_CALL_WATCHER_INTERNAL_H_
