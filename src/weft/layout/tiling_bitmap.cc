#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>
#include <optional>
#include <utility>

#include "weft/base/checked.h"
#include "weft/layout/tiling_bitmap_internal.h"

namespace weft::layout::internal {
namespace {

using Kind = TilingFault::Kind;

// An image with more writes than elements is walked only up to this size.
constexpr int64_t kMaxRepeatedWrites = int64_t{1} << 20;

// Calls visit(range) for each stretch of neighbouring elements that `image`
// writes, in digit order, until it returns false. True if never stopped.
template <typename Visit>
bool ForEachRange(const ClusterImage& image, const Visit& visit) {
  std::size_t first_outer = 0;
  int64_t length = 1;
  if (!image.modes.empty() && image.modes[0].stride == 1) {
    length = image.modes[0].extent;
    first_outer = 1;
  }
  absl::InlinedVector<int64_t, 4> digits(image.modes.size(), 0);
  int64_t begin = image.offset;
  while (true) {
    if (!visit(tensor::Range{begin, begin + length})) return false;
    std::size_t k = first_outer;
    for (; k < digits.size(); ++k) {
      begin += image.modes[k].stride;
      if (++digits[k] < image.modes[k].extent) break;
      begin -= image.modes[k].extent * image.modes[k].stride;
      digits[k] = 0;
    }
    if (k == digits.size()) return true;
  }
}

class Bitmap {
 public:
  explicit Bitmap(int64_t num_bits)
      : num_bits_(num_bits),
        words_(static_cast<std::size_t>(base::CeilDiv(num_bits, 64)), 0) {}

  // Sets the bits of `range`; the first stretch that was set before, if any.
  std::optional<tensor::Range> Set(tensor::Range range) {
    std::optional<tensor::Range> before;
    for (int64_t bit = range.begin; bit < range.end;) {
      const int64_t end = std::min(range.end, (bit / 64 + 1) * 64);
      uint64_t& word = words_[static_cast<std::size_t>(bit / 64)];
      const uint64_t mask = Mask(bit % 64, end - bit);
      if (!before && (word & mask) != 0) {
        const int64_t first = bit / 64 * 64 + std::countr_zero(word & mask);
        before = tensor::Range{
            first, std::min(range.end, first + RunOfOnes(first, range.end))};
      }
      word |= mask;
      bit = end;
    }
    return before;
  }

  // Adds the bits of `own`, none of them outside `hull`, and clears them
  // there; the first stretch that both had, if any.
  std::optional<tensor::Range> TakeOver(Bitmap& own,
                                        const tensor::Range& hull) {
    std::optional<tensor::Range> common;
    for (int64_t i = hull.begin / 64; i <= (hull.end - 1) / 64; ++i) {
      uint64_t& word = words_[static_cast<std::size_t>(i)];
      const uint64_t own_word = own.words_[static_cast<std::size_t>(i)];
      if (!common && (word & own_word) != 0) {
        const int64_t first = i * 64 + std::countr_zero(word & own_word);
        int64_t end = first;
        while (end < hull.end && Test(end) && own.Test(end)) ++end;
        common = tensor::Range{first, end};
      }
      word |= own_word;
    }
    const auto begin = own.words_.begin();
    std::fill(begin + hull.begin / 64, begin + (hull.end - 1) / 64 + 1, 0);
    return common;
  }

  // First stretch of clear bits, if any.
  std::optional<tensor::Range> FirstClear() const {
    int64_t begin = 0;
    while (begin < num_bits_ && Test(begin)) {
      const uint64_t word = words_[static_cast<std::size_t>(begin / 64)];
      begin += begin % 64 == 0 && word == ~uint64_t{0} ? 64 : 1;
    }
    if (begin >= num_bits_) return std::nullopt;
    int64_t end = begin;
    while (end < num_bits_ && !Test(end)) ++end;
    return tensor::Range{begin, end};
  }

  int64_t CountSet() const {
    int64_t count = 0;
    for (const uint64_t word : words_) count += std::popcount(word);
    return count;
  }

 private:
  static uint64_t Mask(int64_t begin, int64_t length) {
    const uint64_t ones =
        length == 64 ? ~uint64_t{0} : (uint64_t{1} << length) - 1;
    return ones << begin;
  }
  bool Test(int64_t bit) const {
    return (words_[static_cast<std::size_t>(bit / 64)] >> (bit % 64) & 1) != 0;
  }
  int64_t RunOfOnes(int64_t begin, int64_t limit) const {
    int64_t end = begin;
    while (end < limit && Test(end)) ++end;
    return end - begin;
  }

  int64_t num_bits_;
  std::vector<uint64_t> words_;
};

bool Writes(const ClusterImage& image, int64_t element) {
  return !ForEachRange(image, [element](const tensor::Range& range) {
    return element < range.begin || element >= range.end;
  });
}

// Image `index` of the cluster, and the first one before it that writes
// `elements` too.
TilingFault OverlapFault(const Cluster& cluster, std::size_t index,
                         const tensor::Range& elements) {
  std::size_t earlier = 0;
  while (earlier < index && !Writes(cluster.images[earlier], elements.begin)) {
    ++earlier;
  }
  const auto [first, second] =
      std::minmax(cluster.images[earlier].image, cluster.images[index].image);
  return {Kind::kOverlap, first, second, elements, 0};
}

tensor::Range HullOf(const ClusterImage& image) {
  int64_t last = image.offset;
  for (const Mode& mode : image.modes) last += (mode.extent - 1) * mode.stride;
  return {image.offset, last + 1};
}

int64_t NumElements(const ClusterImage& image) {
  int64_t count = 1;
  for (const Mode& mode : image.modes) {
    // Saturates: only compared with the size of the cluster.
    count = base::CheckedMul(count, mode.extent)
                .value_or(std::numeric_limits<int64_t>::max());
  }
  return count;
}

}  // namespace

std::vector<TilingFault> CheckByBitmap(const Cluster& cluster,
                                       bool allow_holes) {
  const int64_t num_elements = cluster.range.extent();
  if (num_elements > kMaxBitmapElements) {
    return {{Kind::kUnproven, -1, -1, {0, num_elements}, 0}};
  }
  std::vector<TilingFault> faults;
  bool all_walked = true;
  Bitmap written(num_elements);
  Bitmap own(num_elements);  // by one image, so that repeats are told apart
  for (std::size_t i = 0; i < cluster.images.size(); ++i) {
    const ClusterImage& image = cluster.images[i];
    const int64_t num_writes = NumElements(image);
    if (num_writes > num_elements && num_writes > kMaxRepeatedWrites) {
      // Certainly a repeat, and the product may be hostile: not walked.
      faults.push_back({Kind::kRepeat, image.image, -1, {0, num_elements}, 0});
      all_walked = false;
      continue;
    }
    std::optional<tensor::Range> repeated;
    ForEachRange(image, [&own, &repeated](const tensor::Range& range) {
      const std::optional<tensor::Range> before = own.Set(range);
      if (before && (!repeated || before->begin < repeated->begin)) {
        repeated = before;
      }
      return true;
    });
    if (repeated) {
      faults.push_back({Kind::kRepeat, image.image, -1, *repeated, 0});
    }
    const std::optional<tensor::Range> common =
        written.TakeOver(own, HullOf(image));
    if (common) faults.push_back(OverlapFault(cluster, i, *common));
  }
  const int64_t missing = num_elements - written.CountSet();
  if (missing > 0 && !allow_holes && all_walked) {
    faults.push_back(
        {Kind::kHole, -1, -1, written.FirstClear().value(), missing});
  }
  return faults;
}

}  // namespace weft::layout::internal
