#include "weft/session/receiver.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "endpoint.h"
#include "held_session.h"
#include "placements.h"
#include "raise.h"
#include "sessions.h"
#include "weft/base/status.h"

namespace weft::python {
namespace {

namespace nb = nanobind;

// Leaves Python's exception set if a signal's handler raised one.
absl::Status CheckSignals() {
  const nb::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() == 0
             ? absl::OkStatus()
             : absl::CancelledError("interrupted while waiting");
}

Phase PhaseOf(const absl::Status& status) {
  return status.GetPayload(session::kPlanRefusedPayload).has_value()
             ? Phase::kPlanning
             : Phase::kAny;
}

// Calls back into Python.
template <typename... Args>
absl::Status CallHook(const nb::object& hook, const Args&... args) {
  const nb::gil_scoped_acquire acquire;
  try {
    hook(args...);
    return absl::OkStatus();
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_Exception)) {
      error.restore();  // Ctrl-C and exit() end the call as what they are
      return absl::CancelledError("interrupted");
    }
    return absl::InternalError(error.what());
  }
}

// For the fields of session::ShadowOptions; null for None.
std::function<absl::Status()> HookOrNull(const nb::object& hook) {
  if (hook.is_none()) return nullptr;
  return [&hook] { return CallHook(hook); };
}

nb::dict ToDict(const session::RefitReport& report, const plan::Plan& plan) {
  nb::dict dict;
  dict["version"] = catalog::ToString(report.version);
  dict["bytes"] = report.bytes;
  dict["bytes_resumed"] = report.bytes_resumed;
  dict["wire_bytes"] = report.wire_bytes;
  dict["seconds"] = report.seconds;
  dict["transfer_seconds"] = report.transfer_seconds;
  dict["verify_seconds"] = report.verify_seconds;
  dict["quantise_seconds"] = report.quantise_seconds;
  dict["control_seconds"] = report.control_seconds;
  dict["pause_seconds"] = report.pause_seconds;
  dict["bytes_copied"] = report.bytes_copied;
  dict["unrecorded"] = report.unrecorded;
  dict["not_taken"] = report.not_taken;
  dict["serving"] = report.serving;
  dict["not_served"] = report.not_served;
  dict["serve_seconds"] = report.serve_seconds;
  dict["bound_bytes_per_second"] = report.bound_bytes_per_second;
  dict["bound"] = report.bound_name;
  dict["tiles_checked"] = report.tiles_checked;
  dict["digest"] = report.digest;
  dict["planned"] = report.planned;
  dict["manifests_fetched"] = report.manifests_fetched;
  dict["moves"] = plan.totals.moves;
  dict["runs"] = plan.totals.runs;
  dict["zero_fill_bytes"] = plan.totals.zero_fill_bytes;
  dict["staging_peak_bytes"] = report.execute.peak_staging_bytes;
  nb::list peers;
  for (const session::PeerReport& peer : report.peers) {
    nb::dict each;
    each["rank"] = peer.rank;
    each["name"] = peer.name;
    each["transport"] = peer.transport;
    each["mapped"] = peer.mapped;
    each["bytes"] = peer.bytes;
    each["detour"] = peer.detour;
    peers.append(each);
  }
  dict["peers"] = peers;
  nb::list replaced;
  for (const session::ReplacedSource& lost : report.replaced) {
    nb::dict each;
    each["source"] = lost.source;
    each["why"] = lost.why;
    nb::list by;
    for (const std::string& name : lost.by) by.append(name);
    each["by"] = by;
    replaced.append(each);
  }
  dict["replaced"] = replaced;
  nb::list conversions;
  for (const plan::ConversionUse& use : plan.conversions) {
    nb::dict each;
    each["conversion"] = tensor::ToString(use.conversion);
    each["lossy"] = use.lossy;
    each["tensors"] = use.num_tensors;
    conversions.append(each);
  }
  dict["conversions"] = conversions;
  return dict;
}

class PyReceiver {
 public:
  PyReceiver(const std::string& catalog, const std::string& model,
             nb::handle placement, const Addresses& memory,
             const std::string& transports, int64_t staging_bytes, int threads,
             bool verify, bool measure_bound,
             std::vector<std::string> known_tensors, nb::object hook,
             double timeout, std::optional<uint64_t> stream, bool shadow,
             std::optional<int64_t> shadow_bytes, nb::object pause,
             nb::object resume, const std::string& state_file,
             bool resume_interrupted, bool serve, bool refuse_lower_step,
             bool refuse_unknown_tensors)
      : hook_(std::move(hook)),
        pause_(std::move(pause)),
        resume_(std::move(resume)) {
    session::ReceiverOptions options;
    options.model = model;
    options.placement = FromPython(placement);
    options.memory = ValueOrRaise(MemoryAt(memory));
    options.execute.device = DeviceOptionsFor(stream);
    const int device = ValueOrRaise(session::DeviceOf(options.memory));
    options.limits.staging_bytes = staging_bytes;
    options.execute.num_threads = threads;
    options.verify = verify;
    options.measure_bound = measure_bound;
    options.known_tensors = std::move(known_tensors);
    options.while_waiting = [this] { return CheckWait(); };
    if (!hook_.is_none()) {
      options.derive_hook = [this](const catalog::VersionId& version) {
        return CallHook(hook_, catalog::ToString(version));
      };
    }
    if (shadow) options.mode = session::ReceiveMode::kShadow;
    if (shadow_bytes) options.shadow.budget_bytes = *shadow_bytes;
    options.shadow.pause = HookOrNull(pause_);
    options.shadow.resume = HookOrNull(resume_);
    options.state_file = state_file;
    options.resume = resume_interrupted;
    options.serve = serve;
    options.refuse_lower_step = refuse_lower_step;
    options.refuse_unknown_tensors = refuse_unknown_tensors;
    RaiseIfError(WithoutGil([&]() -> absl::Status {
      const base::Deadline deadline = AfterSeconds(timeout);
      WEFT_ASSIGN_OR_RETURN(options.catalog, ConnectCatalog(catalog, deadline));
      WEFT_ASSIGN_OR_RETURN(options.transports,
                            MakeTransports(transports, device));
      WEFT_ASSIGN_OR_RETURN(
          std::unique_ptr<session::Receiver> receiver,
          session::Receiver::Create(std::move(options), deadline));
      receiver_.Hold(std::move(receiver));
      return absl::OkStatus();
    }));
  }

  void Prepare(double timeout) {
    const auto receiver = receiver_.Enter();
    const auto one = OneAtATime();
    const absl::Status prepared =
        WithoutGil([&] { return receiver->Prepare(AfterSeconds(timeout)); });
    RaiseIfError(prepared, PhaseOf(prepared));
  }

  // `version`: RUN:EPOCH:STEP, or empty for the newest.
  nb::dict Refit(const std::string& version, bool newer, double timeout) {
    const auto receiver = receiver_.Enter();
    catalog::VersionId exact;
    if (!version.empty()) {
      exact = ValueOrRaise(catalog::ParseVersionId(version));
    }
    const base::Deadline deadline = AfterSeconds(timeout);
    const auto one = OneAtATime();
    const absl::StatusOr<session::RefitReport> report = WithoutGil([&] {
      auto report =
          receiver->Refit(version.empty() ? nullptr : &exact, newer, deadline);
      NoteCommitted(*receiver);
      return report;
    });
    if (PyErr_Occurred() != nullptr) throw nb::python_error();  // Ctrl-C
    RaiseIfError(report.status(), PhaseOf(report.status()));
    return ToDict(*report, *receiver->plan());
  }

  nb::dict Rollback(double timeout) {
    const auto receiver = receiver_.Enter();
    const auto one = OneAtATime();
    const absl::StatusOr<session::RollbackReport> report = WithoutGil([&] {
      auto report = receiver->Rollback(AfterSeconds(timeout));
      NoteCommitted(*receiver);
      return report;
    });
    if (PyErr_Occurred() != nullptr) throw nb::python_error();  // Ctrl-C
    RaiseIfError(report.status());
    nb::dict dict;
    dict["version"] = catalog::ToString(report->version);
    dict["seconds"] = report->seconds;
    dict["pause_seconds"] = report->pause_seconds;
    dict["bytes_copied"] = report->bytes_copied;
    dict["unrecorded"] = report->unrecorded;
    return dict;
  }

  bool fenced() { return receiver_.EnterToLook()->fenced(); }
  std::string fenced_reason() {
    return receiver_.EnterToLook()->fenced_reason();
  }
  std::string committed() {
    const auto receiver = receiver_.EnterToLook();
    const std::lock_guard lock(committed_mutex_);
    return committed_;
  }
  std::string Explain(bool json) {
    const auto receiver = receiver_.EnterToLook();
    const auto one = OneAtATime();
    return receiver->Explain({}, json);
  }

  void Close() {
    receiver_.Close();
    // They may hold what holds this.
    hook_.reset();
    pause_.reset();
    resume_.reset();
  }

 private:
  // What a refit leaves behind, its plan, is read before another one begins.
  // A hook's thread has it already.
  std::unique_lock<std::recursive_mutex> OneAtATime() {
    return WithoutGil(
        [&] { return std::unique_lock<std::recursive_mutex>(one_at_a_time_); });
  }

  // For threads that ask while another one is in a refit.
  void NoteCommitted(const session::Receiver& receiver) {
    const std::lock_guard lock(committed_mutex_);
    committed_ = receiver.committed().has_value()
                     ? catalog::ToString(*receiver.committed())
                     : "";
  }

  absl::Status CheckWait() {
    if (receiver_.closing()) {
      return absl::FailedPreconditionError(
          "the receiver was closed while it waited for a version");
    }
    return CheckSignals();
  }

  nb::object hook_;
  nb::object pause_;
  nb::object resume_;
  std::recursive_mutex one_at_a_time_;
  std::mutex committed_mutex_;
  std::string committed_;
  HeldSession<session::Receiver> receiver_{"receiver"};
};

}  // namespace

void AddReceiver(nb::module_& module) {
  nb::class_<PyReceiver>(module, "Receiver")
      .def(nb::init<const std::string&, const std::string&, nb::handle,
                    const Addresses&, const std::string&, int64_t, int, bool,
                    bool, std::vector<std::string>, nb::object, double,
                    std::optional<uint64_t>, bool, std::optional<int64_t>,
                    nb::object, nb::object, const std::string&, bool, bool,
                    bool, bool>(),
           nb::arg("catalog"), nb::arg("model"), nb::arg("placement"),
           nb::arg("memory"), nb::arg("transports"), nb::arg("staging_bytes"),
           nb::arg("threads"), nb::arg("verify"), nb::arg("measure_bound"),
           nb::arg("known_tensors"), nb::arg("hook").none(), nb::arg("timeout"),
           nb::arg("stream") = nb::none(), nb::arg("shadow") = false,
           nb::arg("shadow_bytes") = nb::none(),
           nb::arg("pause").none() = nb::none(),
           nb::arg("resume").none() = nb::none(), nb::arg("state_file") = "",
           nb::arg("resume_interrupted") = false, nb::arg("serve") = false,
           nb::arg("refuse_lower_step") = false,
           nb::arg("refuse_unknown_tensors") = false)
      .def("prepare", &PyReceiver::Prepare)
      .def("refit", &PyReceiver::Refit)
      .def("rollback", &PyReceiver::Rollback)
      .def_prop_ro("fenced", &PyReceiver::fenced)
      .def_prop_ro("fenced_reason", &PyReceiver::fenced_reason)
      .def_prop_ro("committed", &PyReceiver::committed)
      .def("explain", &PyReceiver::Explain)
      .def("close", &PyReceiver::Close);
}

}  // namespace weft::python
