// How many calls a client may make.
#ifndef WEFT_CATALOG_ACCESS_RATE_LIMIT_H_
#define WEFT_CATALOG_ACCESS_RATE_LIMIT_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "weft/base/deadline.h"

namespace weft::catalog {

// A bucket of tokens for each client: it holds `burst` calls at most and gets
// `per_second` of them back. Thread-safe.
class RateLimit {
 public:
  using TimePoint = base::Deadline::Clock::time_point;

  struct Verdict {
    bool admitted = true;
    // Refused: whether the call before was not, and when to come again.
    bool is_first = false;
    std::chrono::nanoseconds retry_after{0};
  };

  // per_second 0: no limit.
  RateLimit(double per_second, double burst,
            std::function<TimePoint()> now = base::Deadline::Clock::now);

  Verdict Take(const std::string& client);

  // Clients that are remembered: those that have less than a full bucket, and
  // some.
  std::size_t clients() const;

 private:
  struct Bucket {
    double calls = 0;
    TimePoint filled;
    bool refusing = false;
  };
  double Fill(const Bucket& bucket, TimePoint now) const;
  void DropFull(TimePoint now);

  const double per_second_;
  const double burst_;
  const std::function<TimePoint()> now_;
  mutable std::mutex mutex_;
  std::map<std::string, Bucket> buckets_;
  std::size_t drop_at_;
};

}  // namespace weft::catalog

#endif  // WEFT_CATALOG_ACCESS_RATE_LIMIT_H_
