#include "catalog_http.h"

#include <sys/socket.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "catalog_view.h"
#include "endpoints.h"
#include "http_server.h"

namespace weft::apps {
namespace {

constexpr double kStoreSeconds = 2;
constexpr std::size_t kThreads = 4;
constexpr std::size_t kMostRequestBytes = 16 << 10;
constexpr std::chrono::seconds kPatience(3);
constexpr char kText[] = "text/plain; charset=utf-8";

// A port that another program has is an error, and not shared with it.
void SetSocketOptions(int socket) {
  const int yes = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
}

}  // namespace

struct CatalogHttp::Impl {
  HttpServer server{kThreads, kPatience};
  std::string address;
  std::thread thread;
};

CatalogHttp::CatalogHttp(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

CatalogHttp::~CatalogHttp() {
  impl_->server.stop();
  impl_->thread.join();
}

const std::string& CatalogHttp::address() const { return impl_->address; }

absl::StatusOr<std::unique_ptr<CatalogHttp>> CatalogHttp::Start(
    const std::string& listen_address, catalog::CatalogStore* store,
    CatalogMetrics* metrics) {
  const size_t colon = listen_address.rfind(':');
  int port = -1;
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(listen_address.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("HTTP address \"", listen_address,
                     "\" is not of the form HOST:PORT with a port between 0 "
                     "and 65535"));
  }
  auto impl = std::make_unique<Impl>();
  httplib::Server& server = impl->server;
  server.set_socket_options(SetSocketOptions);
  server.set_payload_max_length(kMostRequestBytes);
  server.Get("/healthz",
             [](const httplib::Request&, httplib::Response& answer) {
               answer.set_content("ok\n", kText);
             });
  server.Get("/readyz", [store](const httplib::Request&,
                                httplib::Response& answer) {
    const auto versions = store->ListVersions("", AfterSeconds(kStoreSeconds));
    answer.status = versions.ok() ? 200 : 503;
    answer.set_content(
        versions.ok()
            ? "ready\n"
            : absl::StrCat(std::string(versions.status().message()), "\n"),
        kText);
  });
  server.Get("/metrics", [store, metrics](const httplib::Request&,
                                          httplib::Response& answer) {
    answer.set_content(metrics->Collect(*store), "text/plain; version=0.0.4");
  });
  server.Get("/status", [store](const httplib::Request&,
                                httplib::Response& answer) {
    const auto view = LookAtCatalog(*store, "", AfterSeconds(kStoreSeconds));
    answer.status = view.ok() ? 200 : 503;
    answer.set_content(
        view.ok() ? ToJson(*view).dump() + "\n"
                  : absl::StrCat(std::string(view.status().message()), "\n"),
        view.ok() ? "application/json" : kText);
  });
  std::string host = listen_address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty()) host = "::";
  const bool bound = port == 0 ? (port = server.bind_to_any_port(host)) > 0
                               : server.bind_to_port(host, port);
  if (!bound) {
    return absl::AlreadyExistsError(absl::StrCat(
        "cannot serve HTTP on ", listen_address,
        " (is another program there, or is it no address of this host)"));
  }
  impl->address = absl::StrCat(listen_address.substr(0, colon), ":", port);
  impl->thread = std::thread([&server] { server.listen_after_bind(); });
  // Before that stop() would do nothing, and never be heard of again.
  while (!server.is_running()) std::this_thread::yield();
  return std::unique_ptr<CatalogHttp>(new CatalogHttp(std::move(impl)));
}

}  // namespace weft::apps
