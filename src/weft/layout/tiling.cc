#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "weft/base/checked.h"
#include "weft/layout/tiling_bitmap_internal.h"
#include "weft/layout/tiling_internal.h"

namespace weft::layout::internal {
namespace {

// Beyond this many boxes in a cluster the bitmap is cheaper than pairs.
constexpr std::size_t kMaxBoxes = std::size_t{1} << 16;

using Kind = TilingFault::Kind;

// Elements as numbers in a chain of divisors, the fastest digit first.
class RadixChain {
 public:
  // nullopt if the strides do not divide each other in order.
  static std::optional<RadixChain> Of(const Cluster& cluster) {
    RadixChain chain;
    chain.radices_.push_back(1);
    for (const ClusterImage& image : cluster.images) {
      for (const Mode& mode : image.modes) {
        chain.radices_.push_back(mode.stride);
      }
    }
    std::vector<int64_t>& radices = chain.radices_;
    std::sort(radices.begin(), radices.end());
    radices.erase(std::unique(radices.begin(), radices.end()), radices.end());
    for (std::size_t k = 0; k + 1 < radices.size(); ++k) {
      if (radices[k + 1] % radices[k] != 0) return std::nullopt;
      chain.extents_.push_back(radices[k + 1] / radices[k]);
    }
    chain.extents_.push_back(
        base::CeilDiv(cluster.range.extent(), radices.back()));
    return chain;
  }

  std::size_t num_digits() const { return radices_.size(); }
  int64_t radix(std::size_t digit) const { return radices_[digit]; }
  int64_t extent(std::size_t digit) const { return extents_[digit]; }
  bool is_top(std::size_t digit) const { return digit + 1 == num_digits(); }
  int64_t DigitOf(int64_t element, std::size_t digit) const {
    return element / radices_[digit] % extents_[digit];
  }
  // Dimension of the digit in a box; boxes have the slowest digit first.
  int DimOf(std::size_t digit) const {
    return static_cast<int>(num_digits() - 1 - digit);
  }

 private:
  std::vector<int64_t> radices_;
  std::vector<int64_t> extents_;
};

struct DigitBox {
  int image = 0;
  tensor::Box box;
};

int64_t FirstElement(const RadixChain& chain, const tensor::Box& box) {
  int64_t element = 0;
  for (std::size_t digit = 0; digit < chain.num_digits(); ++digit) {
    element += box.range(chain.DimOf(digit)).begin * chain.radix(digit);
  }
  return element;
}

int64_t LastElement(const RadixChain& chain, const tensor::Box& box) {
  int64_t element = 0;
  for (std::size_t digit = 0; digit < chain.num_digits(); ++digit) {
    element += (box.range(chain.DimOf(digit)).end - 1) * chain.radix(digit);
  }
  return element;
}

// The first elements of `box` that lie next to each other.
tensor::Range FirstElements(const RadixChain& chain, const tensor::Box& box) {
  const int64_t begin = FirstElement(chain, box);
  int64_t length = 1;
  for (std::size_t digit = 0; digit < chain.num_digits(); ++digit) {
    const int64_t extent = box.extent(chain.DimOf(digit));
    length *= extent;
    if (extent != chain.extent(digit)) break;
  }
  return {begin, begin + length};
}

using ClusterModes = absl::InlinedVector<Mode, 4>;

// Writes one image as boxes of digits.
class Decomposer {
 public:
  explicit Decomposer(const RadixChain& chain) : chain_(chain) {}

  // False if there would be too many boxes.
  bool Add(const ClusterImage& image) {
    image_ = image.image;
    ranges_.assign(chain_.num_digits(), {});
    Split(image.offset, image.modes, 0);
    return !failed_;
  }
  std::vector<DigitBox> TakeBoxes() { return std::move(boxes_); }
  const std::vector<TilingFault>& repeats() const { return repeats_; }

 private:
  void Split(int64_t offset, const ClusterModes& modes, std::size_t digit);
  void SplitWhole(int64_t offset, int64_t blocks, const ClusterModes& rest,
                  std::size_t digit);
  void Emit();

  const RadixChain& chain_;
  int image_ = 0;
  bool failed_ = false;
  absl::InlinedVector<tensor::Range, 8> ranges_;  // by dimension of the box
  std::vector<DigitBox> boxes_;
  std::vector<TilingFault> repeats_;
};

void Decomposer::Emit() {
  absl::StatusOr<tensor::Box> box = tensor::Box::Make(ranges_);
  if (!box.ok() || boxes_.size() >= kMaxBoxes) {
    failed_ = true;
    return;
  }
  boxes_.push_back({image_, *std::move(box)});
}

void Decomposer::Split(int64_t offset, const ClusterModes& modes,
                       std::size_t digit) {
  if (failed_) return;
  if (digit == chain_.num_digits()) return Emit();
  const int64_t value = chain_.DigitOf(offset, digit);
  tensor::Range& range = ranges_[chain_.DimOf(digit)];
  if (modes.empty() || modes.front().stride != chain_.radix(digit)) {
    range = {value, value + 1};
    return Split(offset, modes, digit + 1);
  }
  const int64_t count = modes.front().extent;
  const int64_t extent = chain_.extent(digit);
  const ClusterModes rest(modes.begin() + 1, modes.end());
  if (chain_.is_top(digit) || value + count <= extent) {
    range = {value, value + count};
    return Split(offset, rest, digit + 1);
  }
  // The digit carries: what is left of this block, whole blocks, the rest.
  const int64_t head = value == 0 ? 0 : extent - value;
  const int64_t blocks = (count - head) / extent;
  const int64_t tail = count - head - blocks * extent;
  if (head > 0) {
    range = {value, extent};
    Split(offset, rest, digit + 1);
  }
  if (blocks > 0) {
    range = {0, extent};
    SplitWhole(offset + head * chain_.radix(digit), blocks, rest, digit + 1);
  }
  if (tail > 0) {
    range = {0, tail};
    Split(offset + (head + blocks * extent) * chain_.radix(digit), rest,
          digit + 1);
  }
}

void Decomposer::SplitWhole(int64_t offset, int64_t blocks,
                            const ClusterModes& rest, std::size_t digit) {
  if (blocks == 1) return Split(offset, rest, digit);
  const int64_t radix = chain_.radix(digit);
  ClusterModes modes = rest;
  if (!modes.empty() && modes.front().stride == radix) {
    // i*radix + k*radix with both i and k free: 1+0 == 0+1.
    repeats_.push_back(
        {Kind::kRepeat, image_, -1, {offset + radix, offset + radix + 1}, 0});
    modes.front().extent += blocks - 1;
  } else {
    modes.insert(modes.begin(), Mode{blocks, radix});
  }
  Split(offset, modes, digit);
}

// Boxes with what they share taken out of the later one, and the shares.
struct DisjointBoxes {
  std::vector<tensor::Box> boxes;
  int64_t num_elements = 0;
  // First shared elements by pair of images, the smaller index first.
  std::map<std::pair<int, int>, tensor::Range> shared;
};

void NoteShared(const RadixChain& chain, int a, int b, const tensor::Box& box,
                DisjointBoxes& result) {
  const std::pair<int, int> key = std::minmax(a, b);
  const tensor::Range elements = FirstElements(chain, box);
  const auto it = result.shared.find(key);
  if (it != result.shared.end()) {
    if (elements.begin < it->second.begin) it->second = elements;
  } else if (result.shared.size() < kMaxOverlaps) {
    result.shared.emplace(key, elements);
  }
}

DisjointBoxes MakeDisjoint(const RadixChain& chain,
                           std::vector<DigitBox> boxes) {
  struct Entry {
    int64_t first;
    int64_t last;
    DigitBox piece;
  };
  std::vector<Entry> entries;
  entries.reserve(boxes.size());
  for (DigitBox& piece : boxes) {
    const int64_t first = FirstElement(chain, piece.box);
    const int64_t last = LastElement(chain, piece.box);
    entries.push_back({first, last, std::move(piece)});
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) {
                     return std::tie(a.first, a.piece.image) <
                            std::tie(b.first, b.piece.image);
                   });
  DisjointBoxes result;
  std::vector<const Entry*> open;  // may still meet what comes
  for (const Entry& entry : entries) {
    open.erase(std::remove_if(open.begin(), open.end(),
                              [&entry](const Entry* earlier) {
                                return earlier->last < entry.first;
                              }),
               open.end());
    std::vector<tensor::Box> parts = {entry.piece.box};
    for (const Entry* earlier : open) {
      const tensor::Box& taken = earlier->piece.box;
      const tensor::Box common = tensor::Intersect(entry.piece.box, taken);
      if (common.empty()) continue;
      NoteShared(chain, earlier->piece.image, entry.piece.image, common,
                 result);
      std::vector<tensor::Box> left;
      for (const tensor::Box& part : parts) {
        for (tensor::Box& kept : tensor::Subtract(part, taken)) {
          left.push_back(std::move(kept));
        }
      }
      parts = std::move(left);
    }
    open.push_back(&entry);
    for (tensor::Box& part : parts) {
      result.num_elements += part.num_elements();
      result.boxes.push_back(std::move(part));
    }
  }
  return result;
}

// First elements that disjoint `boxes` leave out, from the digit that is
// dimension `dim` of the boxes downwards. Requires that there are some.
tensor::Range FirstHole(const RadixChain& chain,
                        const std::vector<const tensor::Box*>& boxes, int dim,
                        int64_t offset) {
  const std::size_t digit = chain.num_digits() - 1 - dim;
  const int64_t radix = chain.radix(digit);
  std::vector<int64_t> cuts = {0, chain.extent(digit)};
  for (const tensor::Box* box : boxes) {
    cuts.push_back(box->range(dim).begin);
    cuts.push_back(box->range(dim).end);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    std::vector<const tensor::Box*> inside;
    int64_t covered = 0;  // of each value of the digit in [cuts[i],cuts[i+1])
    for (const tensor::Box* box : boxes) {
      if (box->range(dim).begin > cuts[i] || box->range(dim).end <= cuts[i]) {
        continue;
      }
      inside.push_back(box);
      int64_t below = 1;
      for (int d = dim + 1; d < box->rank(); ++d) below *= box->extent(d);
      covered += below;
    }
    if (covered == radix) continue;
    if (inside.empty()) {
      return {offset + cuts[i] * radix, offset + cuts[i + 1] * radix};
    }
    return FirstHole(chain, inside, dim + 1, offset + cuts[i] * radix);
  }
  return {offset, offset};
}

// Step 2 of the header; nullopt if the cluster needs step 3.
std::optional<std::vector<TilingFault>> CheckByDigits(const Cluster& cluster,
                                                      bool allow_holes) {
  const std::optional<RadixChain> chain = RadixChain::Of(cluster);
  if (!chain) return std::nullopt;
  Decomposer decomposer(*chain);
  for (const ClusterImage& image : cluster.images) {
    if (!decomposer.Add(image)) return std::nullopt;
  }
  std::vector<TilingFault> faults = decomposer.repeats();
  const DisjointBoxes disjoint = MakeDisjoint(*chain, decomposer.TakeBoxes());
  for (const auto& [images, elements] : disjoint.shared) {
    const bool same = images.first == images.second;
    faults.push_back({same ? Kind::kRepeat : Kind::kOverlap, images.first,
                      same ? -1 : images.second, elements, 0});
  }
  const int64_t missing = cluster.range.extent() - disjoint.num_elements;
  if (missing > 0 && !allow_holes) {
    std::vector<const tensor::Box*> boxes;
    for (const tensor::Box& box : disjoint.boxes) boxes.push_back(&box);
    tensor::Range hole = FirstHole(*chain, boxes, 0, 0);
    // The top digit may reach past the cluster.
    hole.end = std::min(hole.end, cluster.range.extent());
    faults.push_back({Kind::kHole, -1, -1, hole, missing});
  }
  return faults;
}

// `image` relative to `begin`, modes fastest first and merged. A mode that
// writes the same elements again is taken out and reported.
ClusterImage Normalize(const Image& image, int index,
                       std::vector<TilingFault>& faults) {
  ClusterImage result{index, image.offset, {}};
  ClusterModes sorted = image.modes;
  std::sort(sorted.begin(), sorted.end(), [](const Mode& a, const Mode& b) {
    return std::tie(a.stride, a.extent) < std::tie(b.stride, b.extent);
  });
  bool repeats = false;
  int64_t repeated = image.offset;
  for (const Mode& mode : sorted) {
    if (mode.extent == 1) continue;
    if (mode.stride == 0) {
      repeats = true;
      continue;
    }
    Mode* last = result.modes.empty() ? nullptr : &result.modes.back();
    if (last != nullptr && last->stride == mode.stride) {
      if (!repeats) repeated = image.offset + mode.stride;
      repeats = true;
      last->extent += mode.extent - 1;
    } else if (last != nullptr &&
               base::CheckedMul(last->extent, last->stride) == mode.stride) {
      last->extent *= mode.extent;
    } else {
      result.modes.push_back(mode);
    }
  }
  if (repeats) {
    faults.push_back({Kind::kRepeat, index, -1, {repeated, repeated + 1}, 0});
  }
  return result;
}

int64_t EndOf(const ClusterImage& image) {
  int64_t last = image.offset;
  for (const Mode& mode : image.modes) last += (mode.extent - 1) * mode.stride;
  return last + 1;
}

bool IsOneInterval(const Cluster& cluster) {
  if (cluster.images.size() != 1) return false;
  const ClusterModes& modes = cluster.images[0].modes;
  return modes.empty() || (modes.size() == 1 && modes[0].stride == 1);
}

// Faults of one cluster, in elements of the stored tensor.
void CheckCluster(Cluster cluster, bool allow_holes,
                  std::vector<TilingFault>& faults) {
  if (IsOneInterval(cluster)) return;
  const int64_t begin = cluster.range.begin;
  for (ClusterImage& image : cluster.images) image.offset -= begin;
  std::optional<std::vector<TilingFault>> found =
      CheckByDigits(cluster, allow_holes);
  if (!found) found = CheckByBitmap(cluster, allow_holes);
  for (TilingFault& fault : *found) {
    fault.elements.begin += begin;
    fault.elements.end += begin;
    faults.push_back(fault);
  }
}

}  // namespace

std::vector<TilingFault> FindTilingFaults(const std::vector<Image>& images,
                                          int64_t num_elements,
                                          bool allow_holes) {
  std::vector<TilingFault> faults;
  std::vector<ClusterImage> sorted;
  sorted.reserve(images.size());
  for (std::size_t i = 0; i < images.size(); ++i) {
    sorted.push_back(Normalize(images[i], static_cast<int>(i), faults));
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const ClusterImage& a, const ClusterImage& b) {
              return std::tie(a.offset, a.image) < std::tie(b.offset, b.image);
            });
  const auto note_gap = [&](int64_t begin, int64_t end) {
    if (begin >= end || allow_holes) return;
    faults.push_back({Kind::kHole, -1, -1, {begin, end}, end - begin});
  };
  int64_t covered_end = 0;
  for (std::size_t i = 0; i < sorted.size();) {
    note_gap(covered_end, sorted[i].offset);
    Cluster cluster;
    cluster.range = {sorted[i].offset, EndOf(sorted[i])};
    do {
      cluster.range.end = std::max(cluster.range.end, EndOf(sorted[i]));
      cluster.images.push_back(std::move(sorted[i]));
      ++i;
    } while (i < sorted.size() && sorted[i].offset < cluster.range.end);
    covered_end = cluster.range.end;
    CheckCluster(std::move(cluster), allow_holes, faults);
  }
  note_gap(covered_end, num_elements);
  return faults;
}

}  // namespace weft::layout::internal
