// Who may call what of a catalog, how often, and what is written down of it.
#ifndef WEFT_CATALOG_ACCESS_GATE_H_
#define WEFT_CATALOG_ACCESS_GATE_H_

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/catalog/access/audit_log.h"
#include "weft/catalog/access/changing_file.h"
#include "weft/catalog/access/rate_limit.h"
#include "weft/catalog/access/tokens.h"

namespace weft::catalog {

struct GateOptions {
  std::string token_file{};     // empty: everyone may do everything
  std::string audit_file{};     // empty: nothing is written down
  double calls_per_second = 0;  // of one client; 0: as many as it likes
  // Told what a person should know: a line each.
  std::function<void(const std::string& line)> on_note = nullptr;
};

// As the connection has it.
struct Caller {
  std::string peer{};         // address and port
  std::string token{};        // that it showed; empty: none
  std::string certificate{};  // common name; empty: none
};

struct CallFacts {
  std::string call{};
  Roles any_of = 0;      // one of these roles is enough
  bool changes = false;  // written down even if all is well
  std::string worker{};  // whose doing it is, if a worker's
  std::string model{};
  std::string subject{};
};

// Thread-safe.
class Gate {
 public:
  static absl::StatusOr<std::unique_ptr<Gate>> Make(const GateOptions& options);

  struct Admission {
    absl::Status status;
    std::string token_name;
    std::chrono::nanoseconds retry_after{0};  // with kResourceExhausted
    bool silent = false;  // one of many such refusals: not written down
  };
  // The name of the token that a worker was registered with, empty if with
  // none; kNotFound if there is no such worker.
  using OwnerOf =
      std::function<absl::StatusOr<std::string>(const std::string& worker_id)>;

  // kResourceExhausted, kUnauthenticated or kPermissionDenied. A call for a
  // worker is its owner's and an admin's only; for a worker that is not known
  // it is admitted: there is nothing that it could do.
  Admission Admit(const Caller& caller, const CallFacts& facts,
                  const OwnerOf& owner_of);
  // The end of an admitted or refused call.
  void Record(const Caller& caller, const CallFacts& facts,
              const Admission& admission, const absl::Status& outcome);

 private:
  explicit Gate(const GateOptions& options);
  Admission Limit(const std::string& client);
  absl::Status CheckOwner(const TokenEntry& entry, const std::string& worker_id,
                          const OwnerOf& owner_of);

  const double calls_per_second_;
  RateLimit rate_;
  std::unique_ptr<ChangingFile<TokenTable>> tokens_;
  std::unique_ptr<AuditLog> audit_;
  // A worker's owner does not change: asked for once.
  std::mutex mutex_;
  std::map<std::string, std::string> owners_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_ACCESS_GATE_H_
