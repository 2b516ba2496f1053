// Who calls, and whether the gate lets the call through.
#include <grpc/grpc_security_constants.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/base/deadline.h"
#include "weft/catalog/grpc/bearer_internal.h"
#include "weft/catalog/grpc/catalog_service_internal.h"

namespace weft::catalog {
namespace {

std::string Text(const grpc::string_ref& bytes) {
  return {bytes.data(), bytes.size()};
}

// `context` is nullptr where there is no connection.
Caller CallerOf(const grpc::ServerContextBase* context) {
  Caller caller;
  if (context == nullptr) return caller;
  caller.peer = context->peer();
  const auto& headers = context->client_metadata();
  const auto header = headers.find(kTokenHeader);
  if (header != headers.end()) {
    const std::string value = Text(header->second);
    const std::string scheme = kTokenScheme;
    if (value.rfind(scheme, 0) == 0) caller.token = value.substr(scheme.size());
  }
  const auto shown = context->auth_context();
  if (shown != nullptr && shown->IsPeerAuthenticated()) {
    const auto names = shown->FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME);
    if (!names.empty()) caller.certificate = Text(names.front());
  }
  return caller;
}

}  // namespace

absl::Status CatalogService::Guard(grpc::ServerContextBase* context,
                                   CallFacts facts, const Body& body) {
  if (gate_ == nullptr) return body("", facts);
  const Caller caller = CallerOf(context);
  const Gate::Admission admission = gate_->Admit(
      caller, facts,
      [this](const std::string& worker_id) { return OwnerOf(worker_id); });
  absl::Status outcome = admission.status;
  if (outcome.ok()) {
    outcome = body(admission.token_name, facts);
  } else if (context != nullptr && admission.retry_after.count() > 0) {
    const auto wait =
        std::chrono::ceil<std::chrono::milliseconds>(admission.retry_after);
    context->AddTrailingMetadata("grpc-retry-pushback-ms",
                                 absl::StrCat(wait.count()));
  }
  gate_->Record(caller, facts, admission, outcome);
  return outcome;
}

absl::StatusOr<std::string> CatalogService::OwnerOf(
    const std::string& worker_id) {
  const auto workers = store_->ListWorkers("", base::Deadline::Infinite());
  if (!workers.ok()) return workers.status();
  const auto found = std::find_if(workers->begin(), workers->end(),
                                  [&](const WorkerRecord& worker) {
                                    return worker.worker_id == worker_id;
                                  });
  if (found == workers->end()) return absl::NotFoundError("no such worker");
  return found->info.owner;
}

absl::StatusOr<std::shared_ptr<void>> CatalogService::CountWatch() {
  std::shared_ptr<void> counted(nullptr, [this](void*) { --watches_; });
  if (++watches_ <= max_watches_) return counted;
  return absl::ResourceExhaustedError(absl::StrCat(
      "the catalog has ", max_watches_, " watches, its limit (--max-watches)"));
}

}  // namespace weft::catalog
