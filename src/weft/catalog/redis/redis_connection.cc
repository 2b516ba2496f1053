#include <hiredis/hiredis.h>
#include <sched.h>
#include <sys/socket.h>

#include <chrono>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/catalog/limits.h"
#include "weft/catalog/redis/redis_connection_internal.h"
#include "weft/catalog/store.h"

namespace weft::catalog {
namespace {

constexpr std::string_view kScheme = "redis://";

RedisReply Convert(const redisReply& from) {
  RedisReply reply;
  switch (from.type) {
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_STRING:
      reply.kind = RedisReply::Kind::kText;
      reply.text.assign(from.str, from.len);
      break;
    case REDIS_REPLY_ERROR:
      reply.kind = RedisReply::Kind::kError;
      reply.text = CleanReason(std::string_view(from.str, from.len));
      break;
    case REDIS_REPLY_INTEGER:
      reply.kind = RedisReply::Kind::kNumber;
      reply.number = from.integer;
      break;
    case REDIS_REPLY_ARRAY:
      reply.kind = RedisReply::Kind::kList;
      reply.items.reserve(from.elements);
      for (size_t i = 0; i < from.elements; ++i) {
        reply.items.push_back(Convert(*from.element[i]));
      }
      break;
    default:
      break;
  }
  return reply;
}

}  // namespace

std::string RedisAddress::Name() const { return absl::StrCat(host, ":", port); }

absl::StatusOr<RedisAddress> ParseRedisUrl(std::string_view url) {
  const auto wrong = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("store \"", CleanReason(url.substr(0, kMaxNameBytes)),
                     "\" is not of the form redis://HOST[:PORT][/PREFIX]: ",
                     std::string(why)));
  };
  if (url.substr(0, kScheme.size()) != kScheme) return wrong("other scheme");
  std::string_view rest = url.substr(kScheme.size());
  RedisAddress address;
  address.prefix = "weft";
  if (const size_t slash = rest.find('/'); slash != std::string_view::npos) {
    const std::string prefix(rest.substr(slash + 1));
    if (!prefix.empty()) {
      const absl::Status name = CheckName("prefix", prefix);
      if (!name.ok()) return wrong(std::string(name.message()));
      address.prefix = prefix;
    }
    rest = rest.substr(0, slash);
  }
  const size_t colon = rest.rfind(':');
  const bool has_port =
      colon != std::string_view::npos && rest.find(']', colon) == rest.npos;
  if (has_port &&
      (!absl::SimpleAtoi(std::string(rest.substr(colon + 1)), &address.port) ||
       address.port < 1 || address.port > 65535)) {
    return wrong("the port is not between 1 and 65535");
  }
  if (has_port) rest = rest.substr(0, colon);
  if (rest.size() > 2 && rest.front() == '[' && rest.back() == ']') {
    rest = rest.substr(1, rest.size() - 2);
  }
  if (rest.empty()) return wrong("no host");
  // Words before it would be shown by every list of processes.
  if (rest.find('@') != rest.npos) return wrong("a password is not for a URL");
  address.host = std::string(rest);
  return address;
}

RedisConnection::RedisConnection(redisContext* context, std::string name)
    : context_(context), name_(std::move(name)) {}

RedisConnection::~RedisConnection() { redisFree(context_); }

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnection::Open(
    const RedisAddress& address, std::chrono::milliseconds timeout) {
  const timeval wait{.tv_sec = timeout.count() / 1000,
                     .tv_usec = timeout.count() % 1000 * 1000};
  redisContext* context =
      redisConnectWithTimeout(address.host.c_str(), address.port, wait);
  if (context == nullptr || context->err != 0) {
    const std::string why =
        context == nullptr ? "out of memory" : CleanReason(context->errstr);
    if (context != nullptr) redisFree(context);
    return absl::UnavailableError(
        absl::StrCat("no redis answers at ", address.Name(), " (", why, ")"));
  }
  std::unique_ptr<RedisConnection> connection(
      new RedisConnection(context, address.Name()));
  redisSetTimeout(context, wait);
  redisEnableKeepAlive(context);
  if (!address.password.empty()) {
    WEFT_ASSIGN_OR_RETURN(const RedisReply reply,
                          connection->Ask({"AUTH", address.password}));
    if (reply.kind == RedisReply::Kind::kError) {
      return absl::FailedPreconditionError(absl::StrCat(
          "redis at ", address.Name(), " refuses the password: ", reply.text));
    }
  }
  return connection;
}

void RedisConnection::Append(const RedisWords& words) {
  std::vector<const char*> starts;
  std::vector<size_t> sizes;
  for (const std::string& word : words) {
    starts.push_back(word.data());
    sizes.push_back(word.size());
  }
  redisAppendCommandArgv(context_, static_cast<int>(words.size()),
                         starts.data(), sizes.data());
}

void RedisConnection::SendAndLook(std::chrono::microseconds time) {
  int all_sent = 0;
  while (all_sent == 0) {
    if (redisBufferWrite(context_, &all_sent) != REDIS_OK) return;
  }
  const auto end = std::chrono::steady_clock::now() + time;
  char byte = 0;
  while (recv(context_->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
         std::chrono::steady_clock::now() < end) {
    sched_yield();
  }
}

absl::StatusOr<RedisReply> RedisConnection::Read() {
  void* raw = nullptr;
  if (redisGetReply(context_, &raw) != REDIS_OK || raw == nullptr) {
    return Broken();
  }
  RedisReply reply = Convert(*static_cast<redisReply*>(raw));
  freeReplyObject(raw);
  // A server that still reads its file will answer later, on another
  // connection; one that hands over to another does not take writes.
  if (reply.kind == RedisReply::Kind::kError &&
      (reply.text.rfind("LOADING", 0) == 0 ||
       reply.text.rfind("READONLY", 0) == 0)) {
    return absl::UnavailableError(
        absl::StrCat("redis at ", name_, " is not ready: ", reply.text));
  }
  return reply;
}

absl::Status RedisConnection::Broken() const {
  return absl::UnavailableError(
      absl::StrCat("the connection to redis at ", name_,
                   " broke: ", CleanReason(context_->errstr)));
}

void RedisConnection::Shutdown() { shutdown(context_->fd, SHUT_RDWR); }

}  // namespace weft::catalog
