#include "weft/session/publisher.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "endpoint.h"
#include "held_session.h"
#include "placements.h"
#include "raise.h"
#include "sessions.h"
#include "weft/base/status.h"

namespace weft::python {
namespace {

namespace nb = nanobind;

class PyPublisher {
 public:
  PyPublisher(const std::string& catalog, const std::string& model,
              nb::handle placement, const Addresses& memory,
              const std::string& run_id, uint64_t epoch,
              const std::string& transports, const std::string& model_card,
              int threads, double timeout, std::optional<uint64_t> stream) {
    session::PublisherOptions options;
    options.model = model;
    options.run_id = run_id;
    options.epoch = epoch;
    options.placement = FromPython(placement);
    options.memory = ValueOrRaise(MemoryAt(memory));
    options.device = DeviceOptionsFor(stream);
    const int device = ValueOrRaise(session::DeviceOf(options.memory));
    options.model_card = model_card;
    options.num_threads = threads;
    RaiseIfError(WithoutGil([&]() -> absl::Status {
      const base::Deadline deadline = AfterSeconds(timeout);
      WEFT_ASSIGN_OR_RETURN(options.catalog, ConnectCatalog(catalog, deadline));
      WEFT_ASSIGN_OR_RETURN(options.transports,
                            MakeTransports(transports, device));
      WEFT_ASSIGN_OR_RETURN(
          std::unique_ptr<session::Publisher> publisher,
          session::Publisher::Create(std::move(options), deadline));
      publisher_.Hold(std::move(publisher));
      return absl::OkStatus();
    }));
  }

  int64_t BeginUpdate(double timeout) {
    const auto publisher = publisher_.Enter();
    return ValueOrRaise(WithoutGil(
        [&] { return publisher->BeginUpdate(AfterSeconds(timeout)); }));
  }

  nb::dict Publish(uint64_t step, double timeout) {
    const auto publisher = publisher_.Enter();
    const session::PublishReport report = ValueOrRaise(WithoutGil(
        [&] { return publisher->Publish(step, AfterSeconds(timeout)); }));
    nb::dict dict;
    dict["version"] = catalog::ToString(report.version.version);
    dict["state"] = std::string(catalog::ToString(report.version.state));
    dict["ranks_published"] = report.version.ranks_published;
    dict["ranks_expected"] = report.version.ranks_expected;
    dict["digest_bytes"] = report.digest_bytes;
    dict["quantise_seconds"] = report.quantise_seconds;
    dict["digest_seconds"] = report.digest_seconds;
    dict["control_seconds"] = report.control_seconds;
    return dict;
  }

  void Health() {
    const auto publisher = publisher_.Enter();
    RaiseIfError(WithoutGil([&] { return publisher->Health(); }));
  }

  void Close() { publisher_.Close(); }

 private:
  HeldSession<session::Publisher> publisher_{"publisher"};
};

}  // namespace

void AddPublisher(nb::module_& module) {
  nb::class_<PyPublisher>(module, "Publisher")
      .def(nb::init<const std::string&, const std::string&, nb::handle,
                    const Addresses&, const std::string&, uint64_t,
                    const std::string&, const std::string&, int, double,
                    std::optional<uint64_t>>(),
           nb::arg("catalog"), nb::arg("model"), nb::arg("placement"),
           nb::arg("memory"), nb::arg("run_id"), nb::arg("epoch"),
           nb::arg("transports"), nb::arg("model_card"), nb::arg("threads"),
           nb::arg("timeout"), nb::arg("stream") = nb::none())
      .def("begin_update", &PyPublisher::BeginUpdate)
      .def("publish", &PyPublisher::Publish)
      .def("health", &PyPublisher::Health)
      .def("close", &PyPublisher::Close);
}

}  // namespace weft::python
