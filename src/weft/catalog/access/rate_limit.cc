#include "weft/catalog/access/rate_limit.h"

#include <algorithm>
#include <utility>

namespace weft::catalog {
namespace {

constexpr std::size_t kFirstDrop = 1024;

}  // namespace

RateLimit::RateLimit(double per_second, double burst,
                     std::function<TimePoint()> now)
    : per_second_(per_second),
      burst_(std::max(burst, 1.0)),
      now_(std::move(now)),
      drop_at_(kFirstDrop) {}

double RateLimit::Fill(const Bucket& bucket, TimePoint now) const {
  const std::chrono::duration<double> passed = now - bucket.filled;
  return std::min(burst_, bucket.calls + passed.count() * per_second_);
}

// A full bucket is like none. The work is shared by as many calls.
void RateLimit::DropFull(TimePoint now) {
  std::erase_if(buckets_, [&](const auto& entry) {
    return Fill(entry.second, now) >= burst_;
  });
  drop_at_ = std::max(kFirstDrop, 2 * buckets_.size());
}

RateLimit::Verdict RateLimit::Take(const std::string& client) {
  if (per_second_ <= 0) return {};
  const std::lock_guard lock(mutex_);
  const TimePoint now = now_();
  if (buckets_.size() >= drop_at_) DropFull(now);
  Bucket& bucket =
      buckets_.try_emplace(client, Bucket{burst_, now, false}).first->second;
  bucket.calls = Fill(bucket, now);
  bucket.filled = now;
  if (bucket.calls >= 1) {
    bucket.calls -= 1;
    bucket.refusing = false;
    return {};
  }
  const std::chrono::duration<double> wait((1 - bucket.calls) / per_second_);
  return {.admitted = false,
          .is_first = !std::exchange(bucket.refusing, true),
          .retry_after =
              std::chrono::duration_cast<std::chrono::nanoseconds>(wait)};
}

std::size_t RateLimit::clients() const {
  const std::lock_guard lock(mutex_);
  return buckets_.size();
}

}  // namespace weft::catalog
