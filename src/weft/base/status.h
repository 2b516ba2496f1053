// How Weft reports failure: absl::Status everywhere, never an exception.
//
// A message is a lower-case sentence without a full stop that holds the name
// of the thing and both values: `shard box [0,4)x[0,8) of "q_proj" exceeds
// global shape [2,8]`. The code tells the caller what to do:
//
//   kInvalidArgument     the input is wrong; do not retry
//   kNotFound            the thing named does not exist (file, model, tensor)
//   kAlreadyExists       an output or a name is taken
//   kFailedPrecondition  right call, wrong state (fenced, retired version)
//   kUnavailable         a peer or service is gone; another may serve
//   kDeadlineExceeded    the Deadline passed
//   kDataLoss            bytes are wrong: digest mismatch, truncated file
//   kAborted             the version changed while it was read; retry
//   kResourceExhausted   a budget or a disk is full
//   kUnimplemented       known to the format, not supported by Weft
//   kInternal            a bug in Weft
#ifndef WEFT_BASE_STATUS_H_
#define WEFT_BASE_STATUS_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::base {

// Returns `status` with "context: " put before its message; OK stays OK. Use
// once, where the name is known.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// Collects every fault of an input, so that all are reported at once before
// the first byte moves. Not thread-safe.
class FaultList {
 public:
  void Add(std::string fault);
  bool empty() const { return faults_.empty(); }
  std::size_t count() const { return faults_.size(); }
  const std::vector<std::string>& faults() const { return faults_; }

  // OK when empty; else `code` and one message: the faults separated by "; ",
  // at most `max_listed` of them, then "and N more".
  absl::Status ToStatus(absl::StatusCode code,
                        std::size_t max_listed = 20) const;

 private:
  std::vector<std::string> faults_;
};

}  // namespace weft::base

#define WEFT_RETURN_IF_ERROR(expr)                                \
  do {                                                            \
    if (absl::Status weft_status_ = (expr); !weft_status_.ok()) { \
      return weft_status_;                                        \
    }                                                             \
  } while (false)

#define WEFT_STATUS_CONCAT_INNER_(a, b) a##b
#define WEFT_STATUS_CONCAT_(a, b) WEFT_STATUS_CONCAT_INNER_(a, b)
#define WEFT_ASSIGN_OR_RETURN(lhs, expr)                                    \
  WEFT_ASSIGN_OR_RETURN_IMPL_(WEFT_STATUS_CONCAT_(weft_or_, __LINE__), lhs, \
                              expr)
#define WEFT_ASSIGN_OR_RETURN_IMPL_(result, lhs, expr) \
  auto result = (expr);                                \
  if (!result.ok()) {                                  \
    return std::move(result).status();                 \
  }                                                    \
  lhs = *std::move(result)

#endif  // WEFT_BASE_STATUS_H_
