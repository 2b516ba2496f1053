// One log line, on standard error, where an error or a takeover is decided.
// Libraries below `session` do not log: they return a Status.
#ifndef WEFT_BASE_LOG_H_
#define WEFT_BASE_LOG_H_

#include <string_view>

namespace weft::base {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below `level` are dropped. Default kWarning. Thread-safe.
void SetLogLevel(LogLevel level);
// "<time> <level> <pid> <message>"; lower case, `peer 3` and not `peer=3`.
void Log(LogLevel level, std::string_view message);

}  // namespace weft::base

#endif  // WEFT_BASE_LOG_H_
