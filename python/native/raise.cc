#include "raise.h"

#include <string>

#include "weft/catalog/grpc/grpc_client.h"

namespace weft::python {
namespace {

namespace nb = nanobind;

const char* ClassOf(const absl::Status& status, Phase phase) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return "BadInput";
    case absl::StatusCode::kNotFound:
      return "NotKnown";
    case absl::StatusCode::kAlreadyExists:
      return "AlreadyPublished";
    case absl::StatusCode::kDataLoss:
      return "DigestMismatch";
    case absl::StatusCode::kDeadlineExceeded:
      return "DeadlineExceeded";
    case absl::StatusCode::kUnavailable:
      return "PeerLost";
    case absl::StatusCode::kAborted:
      return "VersionChanged";
    case absl::StatusCode::kFailedPrecondition:
      return phase == Phase::kPlanning ? "CoverageError" : "Refused";
    case absl::StatusCode::kResourceExhausted:
      return status.GetPayload(catalog::kCatalogLimitPayload).has_value()
                 ? "LimitReached"
                 : "OutOfMemory";
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return "AccessDenied";
    case absl::StatusCode::kUnimplemented:
      return "NotSupported";
    default:
      return "WeftError";
  }
}

}  // namespace

void RaiseIfError(const absl::Status& status, Phase phase) {
  if (status.ok()) return;
  const nb::object error_class =
      nb::module_::import_("weft.errors").attr(ClassOf(status, phase));
  const std::string message(status.message());
  PyErr_SetString(error_class.ptr(), message.c_str());
  throw nb::python_error();
}

}  // namespace weft::python
