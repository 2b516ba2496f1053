// Any bytes as a series of calls on both services: nothing may crash, hang or
// trip a sanitizer. Each call is one byte for the method, one for the time that
// passes, two (little endian) for the length of its request, and the request.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "weft/catalog/modelexpress/modelexpress_service_internal.h"

namespace weft::catalog {
namespace {

template <typename Service, typename Request, typename Response>
void CallMx(Service& service,
            grpc::Status (Service::*method)(grpc::ServerContext*,
                                            const Request*, Response*),
            const std::string& bytes) {
  Request request;
  if (!request.ParseFromString(bytes)) return;
  Response response;
  (service.*method)(nullptr, &request, &response);
  std::string serialized;
  response.SerializeToString(&serialized);
}

void CallMxNumber(ModelExpressP2pService& p2p, ModelExpressRefitService& refit,
                  int method, const std::string& bytes) {
  using P = ModelExpressP2pService;
  using R = ModelExpressRefitService;
  switch (method % 14) {
    case 0:
      return CallMx(p2p, &P::PublishMetadata, bytes);
    case 1:
      return CallMx(p2p, &P::ListSources, bytes);
    case 2:
      return CallMx(p2p, &P::GetMetadata, bytes);
    case 3:
      return CallMx(p2p, &P::UpdateStatus, bytes);
    case 4:
      return CallMx(refit, &R::CreateWeightVersion, bytes);
    case 5:
      return CallMx(refit, &R::GetWeightVersion, bytes);
    case 6:
      return CallMx(refit, &R::DeleteWeightVersion, bytes);
    case 7:
      return CallMx(refit, &R::UpdateWeightVersionState, bytes);
    case 8:
      return CallMx(refit, &R::RegisterWorker, bytes);
    case 9:
      return CallMx(refit, &R::CreateWeightVersionShard, bytes);
    case 10:
      return CallMx(refit, &R::ListWeightVersionShards, bytes);
    case 11:
      return CallMx(refit, &R::DeleteWeightVersionShard, bytes);
    case 12:
      return CallMx(refit, &R::RegisterVersionLease, bytes);
    default:
      return CallMx(refit, &R::DeleteVersionLease, bytes);
  }
}

}  // namespace
}  // namespace weft::catalog

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  // Protobuf writes a line for each string that is no UTF-8.
  static auto* const old_handler = google::protobuf::SetLogHandler(nullptr);
  static_cast<void>(old_handler);
  int64_t now_ms = 1'000'000;
  int uids = 0;
  weft::catalog::ModelExpressLimits limits;
  limits.max_sources = 4;
  limits.max_versions = 4;
  limits.max_shards = 6;
  const auto now = [&now_ms] { return now_ms; };
  weft::catalog::ModelExpressP2pService p2p(limits, now);
  // Uids are small and known, so that an input can name them: u1, u2.
  weft::catalog::ModelExpressRefitService refit(
      limits, now, [&uids] { return "u" + std::to_string(++uids); }, nullptr);
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  while (rest.size() >= 4) {
    const auto at = [&rest](std::size_t i) {
      return static_cast<uint8_t>(rest[i]);
    };
    const std::size_t bytes =
        std::min<std::size_t>(at(2) | at(3) << 8, rest.size() - 4);
    now_ms += int64_t{at(1)} * at(1) * 100;
    weft::catalog::CallMxNumber(p2p, refit, at(0),
                                std::string(rest.substr(4, bytes)));
    rest.remove_prefix(4 + bytes);
  }
  return 0;
}
