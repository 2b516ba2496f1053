// Integers that cannot be mixed up: Rank, StoredIndex, TensorIndex.
#ifndef WEFT_BASE_STRONG_ID_H_
#define WEFT_BASE_STRONG_ID_H_

#include <compare>
#include <cstdint>
#include <utility>

namespace weft::base {

template <typename Tag>
class StrongId {
 public:
  constexpr StrongId() = default;
  constexpr explicit StrongId(int64_t value) : value_(value) {}
  constexpr int64_t value() const { return value_; }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;
  template <typename H>
  friend H AbslHashValue(H h, StrongId id) {
    return H::combine(std::move(h), id.value_);
  }

 private:
  int64_t value_ = -1;
};

}  // namespace weft::base

#endif  // WEFT_BASE_STRONG_ID_H_
