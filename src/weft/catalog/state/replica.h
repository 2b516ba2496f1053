// A CatalogState that is fed by a log of commands. Every process that reads the
// same log has the same replica after the same entry: time comes only from the
// commands, and each has one answer, which its proposer takes. Not thread-safe.
#ifndef WEFT_CATALOG_STATE_REPLICA_H_
#define WEFT_CATALOG_STATE_REPLICA_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/catalog/state/catalog_state.h"
#include "weft/catalog/state/command.h"

namespace weft::catalog {

// What a command did; which field holds it depends on its kind.
struct CommandResult {
  absl::Status status;
  Registration registration;
  VersionRecord record;
  Lease lease;
  std::optional<CatalogState::VersionKey> key;
  int64_t revoked = 0;
  bool is_new = false;  // kPutPlacement: the bytes are needed
};

class Replica {
 public:
  // After so many entries, or bytes of them, a snapshot is due.
  static constexpr uint64_t kEntriesASnapshot = 10'000;
  static constexpr uint64_t kBytesASnapshot = uint64_t{16} << 20;
  // But never after fewer than so many, if entries_a_snapshot is more.
  static constexpr uint64_t kFewestASnapshot = 64;

  explicit Replica(const StateOptions& options,
                   uint64_t entries_a_snapshot = kEntriesASnapshot)
      : entries_a_snapshot_(entries_a_snapshot), state_(options) {}

  struct Outcome {
    // Nothing if the entry was no command, came twice, or came from a server
    // that has been declared dead.
    std::optional<CommandResult> result;
    std::string server;
    uint64_t sequence = 0;
    std::string left;    // the server that this entry declared dead
    std::string placed;  // where the bytes of a new placement lie
    bool snapshot_due = false;
  };
  Outcome Apply(std::string_view entry);

  CatalogState& state() { return state_; }
  const CatalogState& state() const { return state_; }
  // Entries so far, over all lives.
  uint64_t entries() const { return entries_; }
  // The latest that any server has said it was, since 1970.
  CatalogState::TimePoint now() const { return now_; }
  std::vector<std::string> Servers() const;
  bool HasServer(const std::string& server) const {
    return servers_.contains(server);
  }

  // Whether it was declared dead not long ago.
  bool HasLeft(const std::string& server) const;
  // 0 for a server that is not there.
  uint64_t LastSequenceOf(const std::string& server) const;

  std::string Encode() const;
  static absl::StatusOr<Replica> Decode(
      std::string_view bytes, const StateOptions& options,
      uint64_t entries_a_snapshot = kEntriesASnapshot);

 private:
  CommandResult Run(const Command& command);
  CommandResult RunWorkerCommand(const Command& command);
  CommandResult RunLeaseCommand(const Command& command);

  uint64_t entries_a_snapshot_;
  CatalogState state_;
  uint64_t entries_ = 0;
  uint64_t entries_since_snapshot_ = 0;
  uint64_t bytes_since_snapshot_ = 0;
  CatalogState::TimePoint now_;
  std::map<std::string, uint64_t> servers_;  // last sequence that was applied
  // Those that left last: one that does not know it yet may not join under the
  // same id, or what it sends again would be done again.
  std::deque<std::string> left_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_STATE_REPLICA_H_
