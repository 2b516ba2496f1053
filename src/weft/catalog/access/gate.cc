#include "weft/catalog/access/gate.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

// Calls that a client may make at once, in seconds of its rate.
constexpr double kBurstSeconds = 2;
constexpr std::size_t kOwnersKept = 65'536;

// Without the port, which is another one for each connection.
std::string HostOf(const std::string& peer) {
  return peer.substr(0, peer.rfind(':'));
}

std::string ShortId(const std::string& id) {
  return CleanReason(id.substr(0, kMaxNameBytes));
}

}  // namespace

Gate::Gate(const GateOptions& options)
    : calls_per_second_(options.calls_per_second),
      rate_(options.calls_per_second,
            kBurstSeconds * options.calls_per_second) {}

absl::StatusOr<std::unique_ptr<Gate>> Gate::Make(const GateOptions& options) {
  std::unique_ptr<Gate> gate(new Gate(options));
  if (!options.token_file.empty()) {
    WEFT_ASSIGN_OR_RETURN(
        gate->tokens_,
        ChangingFile<TokenTable>::Open("token", options.token_file,
                                       TokenTable::Parse, options.on_note));
  }
  if (!options.audit_file.empty()) {
    WEFT_ASSIGN_OR_RETURN(gate->audit_,
                          AuditLog::Open(options.audit_file, options.on_note));
  }
  return gate;
}

Gate::Admission Gate::Limit(const std::string& client) {
  Admission admission;
  const RateLimit::Verdict verdict = rate_.Take(client);
  if (verdict.admitted) return admission;
  admission.retry_after = verdict.retry_after;
  admission.silent = !verdict.is_first;
  admission.status = absl::ResourceExhaustedError(absl::StrFormat(
      "%s has made more than %g calls a second, the limit of this catalog "
      "(--max-calls); try again after %.3f s",
      ShortId(client), calls_per_second_,
      std::chrono::duration<double>(verdict.retry_after).count()));
  return admission;
}

absl::Status Gate::CheckOwner(const TokenEntry& entry,
                              const std::string& worker_id,
                              const OwnerOf& owner_of) {
  std::string owner;
  bool known = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = owners_.find(worker_id);
    known = found != owners_.end();
    if (known) owner = found->second;
  }
  if (!known) {
    absl::StatusOr<std::string> asked = owner_of(worker_id);
    if (absl::IsNotFound(asked.status())) return absl::OkStatus();
    WEFT_ASSIGN_OR_RETURN(owner, std::move(asked));
    const std::lock_guard lock(mutex_);
    if (owners_.size() >= kOwnersKept) owners_.clear();
    owners_[worker_id] = owner;
  }
  if (owner == entry.name) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(
      "worker \"", ShortId(worker_id), "\" was registered with ",
      owner.empty() ? "no token" : absl::StrCat("token \"", owner, "\""),
      ", not with \"", entry.name, "\""));
}

Gate::Admission Gate::Admit(const Caller& caller, const CallFacts& facts,
                            const OwnerOf& owner_of) {
  if (tokens_ == nullptr) return Limit(HostOf(caller.peer));
  const std::shared_ptr<const TokenTable> table = tokens_->Get();
  const TokenEntry* entry =
      caller.token.empty() ? nullptr : table->Find(caller.token);
  // Strangers share the limit of their host, so that they cannot use up that
  // of a token's holder.
  Admission admission =
      Limit(entry == nullptr ? HostOf(caller.peer)
                             : absl::StrCat("token \"", entry->name, "\""));
  if (!admission.status.ok()) return admission;
  if (caller.token.empty()) {
    admission.status = absl::UnauthenticatedError(
        "this catalog wants a token: give --token-file, WEFT_TOKEN_FILE or "
        "WEFT_TOKEN");
  } else if (entry == nullptr) {
    admission.status = absl::UnauthenticatedError(
        "the token is not one that this catalog knows");
  } else {
    admission.token_name = entry->name;
    const bool is_admin = (entry->roles & kMayAdmin) != 0;
    if (!is_admin && (entry->roles & facts.any_of) == 0) {
      admission.status = absl::PermissionDeniedError(absl::StrCat(
          "token \"", entry->name, "\" may ", RolesText(entry->roles), "; ",
          facts.call, " wants ", RolesText(facts.any_of)));
    } else if (!is_admin && !facts.worker.empty()) {
      admission.status = CheckOwner(*entry, facts.worker, owner_of);
    }
  }
  return admission;
}

void Gate::Record(const Caller& caller, const CallFacts& facts,
                  const Admission& admission, const absl::Status& outcome) {
  if (audit_ == nullptr || admission.silent) return;
  if (admission.status.ok() && !facts.changes) return;
  audit_->Write(
      {.peer = caller.peer,
       .token = admission.token_name,
       .certificate = caller.certificate,
       .call = facts.call,
       .worker = facts.worker,
       .model = facts.model,
       .subject = facts.subject,
       .outcome = admission.status.ok() ? outcome : admission.status});
}

}  // namespace weft::catalog
