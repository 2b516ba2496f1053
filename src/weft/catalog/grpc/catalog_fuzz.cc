// Any bytes as a series of calls on the service over a memory store: nothing
// may crash, hang or trip a sanitizer. Each call is one byte for the method,
// two (little endian) for the length of its request, and the request.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include "weft/catalog/grpc/catalog_service_internal.h"
#include "weft/catalog/memory/memory_store.h"

namespace weft::catalog {
namespace {

template <typename Request, typename Response>
void Call(CatalogService& service,
          grpc::Status (CatalogService::*method)(grpc::ServerContext*,
                                                 const Request*, Response*),
          const std::string& bytes) {
  Request request;
  if (!request.ParseFromString(bytes)) return;
  if constexpr (std::is_same_v<Request, v1::BeginUpdateRequest>) {
    // Leases that nobody releases are waited for until then.
    request.set_revoke_after_ns(
        std::min<int64_t>(request.revoke_after_ns(), 0));
  }
  if constexpr (std::is_same_v<Request, v1::ReadEventsRequest>) {
    request.set_wait_ns(0);
  }
  Response response;
  (service.*method)(nullptr, &request, &response);
  std::string serialized;
  response.SerializeToString(&serialized);
}

void CallNumber(CatalogService& service, int method, const std::string& bytes) {
  using S = CatalogService;
  switch (method % 16) {
    case 0:
      return Call(service, &S::PutPlacement, bytes);
    case 1:
      return Call(service, &S::GetPlacement, bytes);
    case 2:
      return Call(service, &S::Register, bytes);
    case 3:
      // What the Attach stream does first.
      return service.AttachWorker(bytes).status().IgnoreError();
    case 4:
      return Call(service, &S::Detach, bytes);
    case 5:
      return Call(service, &S::GetHealth, bytes);
    case 6:
      return Call(service, &S::PublishShard, bytes);
    case 7:
      return Call(service, &S::BeginUpdate, bytes);
    case 8:
      return Call(service, &S::GetSources, bytes);
    case 9:
      return Call(service, &S::AcquireLease, bytes);
    case 10:
      return Call(service, &S::ReleaseLease, bytes);
    case 11:
      return Call(service, &S::ListVersions, bytes);
    case 12:
      return Call(service, &S::ListWorkers, bytes);
    case 13:
      return Call(service, &S::ListLeases, bytes);
    case 14:
      return Call(service, &S::ReadEvents, bytes);
    default:
      return Call(service, &S::ReportServing, bytes);
  }
}

}  // namespace
}  // namespace weft::catalog

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  // Protobuf writes a line for each string that is no UTF-8.
  static auto* const old_handler = google::protobuf::SetLogHandler(nullptr);
  static_cast<void>(old_handler);
  // Ids are small and known, so that an input can name them: w2, l5.
  const auto store = weft::catalog::MakeMemoryStore({.first_number = 1});
  weft::catalog::CatalogService service(store.get());
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  while (rest.size() >= 3) {
    const auto at = [&rest](std::size_t i) {
      return static_cast<uint8_t>(rest[i]);
    };
    const std::size_t bytes =
        std::min<std::size_t>(at(1) | at(2) << 8, rest.size() - 3);
    weft::catalog::CallNumber(service, at(0),
                              std::string(rest.substr(3, bytes)));
    rest.remove_prefix(3 + bytes);
  }
  return 0;
}
