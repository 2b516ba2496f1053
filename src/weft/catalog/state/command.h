// One change of a CatalogState as bytes, so that it can be written to a log
// that several processes read: docs/formats/catalog.md.
#ifndef WEFT_CATALOG_STATE_COMMAND_H_
#define WEFT_CATALOG_STATE_COMMAND_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "weft/catalog/store.h"

namespace weft::catalog {

struct Command {
  enum class Kind : uint8_t {
    kJoin = 1,            // the server serves; numbers are `number` at least
    kLeave = 2,           // server `id` has died
    kTick = 3,            // time passes
    kPutPlacement = 4,    // `id` digest, `text` place, `number` bytes
    kRegister = 5,        // `info`, `text` binding, `flag` rejoins
    kAttach = 6,          // worker `id` by attachment `token`
    kReattach = 7,        // the same, `number` generation, `flag` only orphans
    kDetach = 8,          // worker `id`, attachment `token`, `flag` in order
    kOrphan = 9,          // of the two, but the worker may attach again
    kPublish = 10,        // worker `id`, step `number`, `flag` again
    kRetire = 11,         // worker `id`
    kRevoke = 12,         // of model `text`, `version`
    kAcquire = 13,        // worker `id`, `version`
    kAcquireNewest = 14,  // worker `id`, newer than `version` if `flag`
    kRelease = 15,        // lease `id`, `flag` committed, `text` fenced reason
    kReport = 16,         // worker `id` serves `version` if `flag`, else `text`
    kRenew = 17,          // lease `id`
  };

  Kind kind = Kind::kTick;
  std::string server;     // who proposes it
  uint64_t sequence = 0;  // grows with each proposal of a server
  int64_t now_ns = 0;     // by the proposer's clock
  std::string id;
  std::string text;
  uint64_t number = 0;
  uint64_t token = 0;
  bool flag = false;
  VersionId version;
  WorkerInfo info;  // kRegister only
};

std::string EncodeCommand(const Command& command);
// kDataLoss for what is no command.
absl::StatusOr<Command> DecodeCommand(std::string_view bytes);

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_STATE_COMMAND_H_
