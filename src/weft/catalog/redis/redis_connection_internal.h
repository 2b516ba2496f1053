// One connection to a Redis server, with pipelining.
#ifndef WEFT_CATALOG_REDIS_REDIS_CONNECTION_INTERNAL_H_
#define WEFT_CATALOG_REDIS_REDIS_CONNECTION_INTERNAL_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct redisContext;

namespace weft::catalog {

struct RedisAddress {
  std::string host;
  int port = 6379;
  std::string prefix;    // of every key
  std::string password;  // empty: none

  std::string Name() const;  // "HOST:PORT"
};
// "redis://HOST[:PORT][/PREFIX]"; kInvalidArgument with what is wrong.
absl::StatusOr<RedisAddress> ParseRedisUrl(std::string_view url);

struct RedisReply {
  enum class Kind { kNil, kText, kNumber, kList, kError };
  Kind kind = Kind::kNil;
  std::string text;  // of an error too
  int64_t number = 0;
  std::vector<RedisReply> items;
};

using RedisWords = std::vector<std::string>;

// Not thread-safe but for Shutdown.
class RedisConnection {
 public:
  // Connects and, with a password, signs in. `timeout` bounds every wait.
  static absl::StatusOr<std::unique_ptr<RedisConnection>> Open(
      const RedisAddress& address, std::chrono::milliseconds timeout);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  // Puts a command into the buffer that the next Read sends.
  void Append(const RedisWords& words);
  // Sends what is in the buffer and looks for the reply without sleeping, for
  // `time` at most; other threads that want the core have it meanwhile. Errors
  // are those of the next Read.
  void SendAndLook(std::chrono::microseconds time);
  // The reply of the oldest command without one. kUnavailable when the
  // connection is broken: it is of no use then.
  absl::StatusOr<RedisReply> Read();
  absl::StatusOr<RedisReply> Ask(const RedisWords& words) {
    Append(words);
    return Read();
  }

  // Ends a Read that waits, from another thread.
  void Shutdown();

 private:
  RedisConnection(redisContext* context, std::string name);
  absl::Status Broken() const;

  redisContext* const context_;
  const std::string name_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_REDIS_REDIS_CONNECTION_INTERNAL_H_
