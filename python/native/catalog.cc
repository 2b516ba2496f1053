#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "endpoint.h"
#include "held_session.h"
#include "raise.h"
#include "sessions.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/memory/memory_store.h"

namespace weft::python {
namespace {

namespace nb = nanobind;

struct ServedStore {
  std::unique_ptr<catalog::CatalogStore> store;
  std::unique_ptr<catalog::CatalogServer> server;
};

// A server of its own process's memory, as `weft catalog` is.
class Server {
 public:
  explicit Server(const std::string& listen) {
    auto served = std::make_unique<ServedStore>();
    served->store = catalog::MakeMemoryStore({});
    served->server = ValueOrRaise(
        catalog::CatalogServer::Start(listen, served->store.get()));
    port_ = served->server->port();
    served_.Hold(std::move(served));
  }
  int port() const { return port_; }
  void Close() { served_.Close(); }

 private:
  int port_ = 0;
  HeldSession<ServedStore> served_{"catalog"};
};

nb::dict ToDict(const catalog::VersionRecord& record) {
  nb::dict dict;
  dict["model"] = record.model;
  dict["version"] = catalog::ToString(record.version);
  dict["state"] = std::string(catalog::ToString(record.state));
  dict["reason"] = record.reason;
  dict["ranks_published"] = record.ranks_published;
  dict["ranks_expected"] = record.ranks_expected;
  dict["leases"] = record.leases;
  return dict;
}

nb::dict ToDict(const catalog::WorkerRecord& record) {
  nb::dict dict;
  dict["worker_id"] = record.worker_id;
  dict["generation"] = record.generation;
  dict["model"] = record.info.model;
  dict["role"] = std::string(catalog::ToString(record.info.role));
  dict["layout"] = record.info.layout_spec;
  dict["rank"] = record.info.rank;
  dict["num_ranks"] = record.info.num_ranks;
  dict["alive"] = record.alive;
  dict["fenced_reason"] = record.fenced_reason;
  dict["committed"] = record.committed.run_id.empty()
                          ? std::string()
                          : catalog::ToString(record.committed);
  return dict;
}

class Client {
 public:
  Client(const std::string& address, double timeout)
      : store_(ValueOrRaise(WithoutGil(
            [&] { return ConnectCatalog(address, AfterSeconds(timeout)); }))) {}

  nb::list Versions(const std::string& model, double timeout) {
    const auto records = ValueOrRaise(WithoutGil(
        [&] { return store_->ListVersions(model, AfterSeconds(timeout)); }));
    nb::list list;
    for (const auto& record : records) list.append(ToDict(record));
    return list;
  }

  nb::list Workers(const std::string& model, double timeout) {
    const auto records = ValueOrRaise(WithoutGil(
        [&] { return store_->ListWorkers(model, AfterSeconds(timeout)); }));
    nb::list list;
    for (const auto& record : records) list.append(ToDict(record));
    return list;
  }

 private:
  std::shared_ptr<catalog::CatalogStore> store_;
};

}  // namespace

void AddCatalog(nb::module_& module) {
  nb::class_<Server>(module, "CatalogServer")
      .def(nb::init<const std::string&>(), nb::arg("listen"))
      .def_prop_ro("port", &Server::port)
      .def("close", &Server::Close);
  nb::class_<Client>(module, "CatalogClient")
      .def(nb::init<const std::string&, double>(), nb::arg("address"),
           nb::arg("timeout"))
      .def("versions", &Client::Versions)
      .def("workers", &Client::Workers);
}

}  // namespace weft::python
