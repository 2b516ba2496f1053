// Keys and words that the parts of RedisCore share.
#ifndef WEFT_CATALOG_REDIS_REDIS_WORDS_INTERNAL_H_
#define WEFT_CATALOG_REDIS_REDIS_WORDS_INTERNAL_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weft/catalog/redis/redis_connection_internal.h"

namespace weft::catalog {

// Longer than the longest wait for news.
inline constexpr std::chrono::seconds kReplyTime(5);

inline constexpr char kLogKey[] = "log";            // stream of commands
inline constexpr char kSnapshotKey[] = "snapshot";  // hash
inline constexpr char kOptionsKey[] = "options";    // string, written once
inline constexpr char kEntryField[] = "c";

inline constexpr char kNewsAtOnce[] = "1000";

inline std::string ServerKey(const std::string& server) {
  return "server:" + server;
}
inline std::string PlacementKey(const std::string& place) {
  return "placement:" + place;
}

// Of one entry of a stream, as XRANGE and XREAD give it.
absl::StatusOr<std::pair<uint64_t, uint64_t>> EntryIdOf(
    const RedisReply& entry);
std::string ToString(const std::pair<uint64_t, uint64_t>& entry_id);

// All that is in the log after an entry and is there already.
inline RedisWords NewsAfter(const std::string& log_key,
                            const std::pair<uint64_t, uint64_t>& entry_id) {
  return {"XREAD",   "COUNT", kNewsAtOnce,
          "STREAMS", log_key, ToString(entry_id)};
}
// Of the one stream that XREAD was asked for; none if there is no news.
absl::StatusOr<std::vector<RedisReply>> EntriesOf(const RedisAddress& address,
                                                  RedisReply streams);

// kResourceExhausted for a Redis that is full, else kInternal, with its words.
absl::Status RefusedBy(const RedisAddress& address, const RedisReply& error);

// In this thread: a connection that breaks is an error, not a signal.
void BlockBrokenPipes();

// Waits between attempts to connect.
class Backoff {
 public:
  std::chrono::milliseconds Next() {
    return std::exchange(next_,
                         std::min(next_ * 2, std::chrono::milliseconds(2000)));
  }

 private:
  std::chrono::milliseconds next_{50};
};

// Random: no two are equal.
std::string NewServerId();

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_REDIS_REDIS_WORDS_INTERNAL_H_
