// The client's connection and its two streams.
#ifndef WEFT_CATALOG_GRPC_CLIENT_STREAMS_INTERNAL_H_
#define WEFT_CATALOG_GRPC_CLIENT_STREAMS_INTERNAL_H_

#include <grpcpp/client_context.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "catalog.grpc.pb.h"
#include "weft/base/deadline.h"
#include "weft/catalog/grpc/bearer_internal.h"
#include "weft/catalog/grpc/client_access.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/grpc/stream_thread_internal.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

// Immutable but for what gRPC does inside; shared by the client, its watches
// and its attachments.
struct Connection {
  std::string address;
  std::unique_ptr<v1::Catalog::Stub> stub;
  std::shared_ptr<Bearer> bearer;
  StreamThread streams;

  // Runs a unary `method` of the stub until `deadline`. `doing` is for the
  // error: "listing versions".
  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (v1::Catalog::Stub::*method)(
                        grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response& response,
                    base::Deadline deadline, std::string_view doing) {
    if (const absl::Status status = deadline.Check(doing); !status.ok()) {
      return status;
    }
    grpc::ClientContext context;
    SetDeadline(context, deadline);
    AddToken(context);
    return FromWireStatus(((*stub).*method)(&context, request, &response),
                          doing, address);
  }

  static void SetDeadline(grpc::ClientContext& context,
                          base::Deadline deadline);
  void AddToken(grpc::ClientContext& context) const;
};

// How to reach any server of a catalog.
struct Door {
  ClientAccess access;
  std::shared_ptr<Bearer> bearer;
};
// Refuses files and tokens that are none.
absl::StatusOr<Door> MakeDoor(const ClientAccess& access);

// An attempt to connect of which nothing is heard for so long is made again.
inline constexpr std::chrono::milliseconds kSilence(2000);
// kUnavailable at the first refusal; other codes as for MakeGrpcClient.
absl::StatusOr<std::shared_ptr<Connection>> Connect(const std::string& address,
                                                    const Door& door,
                                                    base::Deadline deadline);
// A client of that one connection.
std::unique_ptr<CatalogStore> MakeClientOf(
    std::shared_ptr<Connection> connection);

// Both wait until the server has taken the stream, or refused it. `on_end`, if
// given, is called once, on another thread, when the stream of an attachment
// has ended, however that came. An attachment that was abandoned does not tell
// the catalog of its end.
absl::StatusOr<std::unique_ptr<Attachment>> OpenAttachment(
    std::shared_ptr<Connection> connection, const v1::AttachRequest& request,
    base::Deadline deadline, std::function<void()> on_end = nullptr);
absl::StatusOr<std::unique_ptr<VersionWatch>> OpenWatch(
    std::shared_ptr<Connection> connection, const std::string& model,
    base::Deadline deadline);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_GRPC_CLIENT_STREAMS_INTERNAL_H_
