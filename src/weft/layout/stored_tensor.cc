#include "weft/layout/stored_tensor.h"

#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/layout/tiling_internal.h"

namespace weft::layout {
namespace {

std::string Quoted(const std::string& name) {
  return absl::StrCat("\"", name, "\"");
}

// Where an image comes from. Its name is put together only for a message:
// stacks of experts have hundreds of fragments.
struct ImageOwner {
  bool is_zero_fill = false;
  std::size_t index = 0;  // into fragments or zero_fill
};

struct OwnedImages {
  std::vector<internal::Image> images;
  std::vector<ImageOwner> owners;
};

// The checks of one stored tensor, which all need the same things at hand.
class TilingCheck {
 public:
  TilingCheck(const StoredTensor& stored,
              const std::vector<tensor::TensorSpec>& tensors,
              int64_t num_elements)
      : stored_(stored), tensors_(tensors), num_elements_(num_elements) {}

  absl::Status Run(bool allow_holes);

 private:
  void AddImage(const IndexMap& map, ImageOwner owner);
  void AddFragment(std::size_t index);
  void AddZeroFill(std::size_t index);
  // Faults unless the fragment's box lies in an existing logical tensor.
  void CheckLogicalSide(std::size_t index);
  std::string NameOf(const ImageOwner& owner) const;
  std::string Describe(const internal::TilingFault& fault) const;
  std::string StoredName() const { return Quoted(stored_.name); }
  std::string StoredShape() const {
    return tensor::ShapeToString(stored_.shape);
  }

  const StoredTensor& stored_;
  const std::vector<tensor::TensorSpec>& tensors_;
  int64_t num_elements_;
  OwnedImages owned_;
  base::FaultList faults_;
};

std::string TilingCheck::NameOf(const ImageOwner& owner) const {
  if (owner.is_zero_fill) {
    return absl::StrCat("zero fill ",
                        stored_.zero_fill[owner.index].ToString());
  }
  const Fragment& fragment = stored_.fragments[owner.index];
  if (fragment.tensor < 0 ||
      fragment.tensor >= static_cast<int64_t>(tensors_.size())) {
    return absl::StrCat("fragment ", owner.index);
  }
  return absl::StrCat("box ", fragment.map.box().ToString(), " of ",
                      Quoted(tensors_[fragment.tensor].name));
}

void TilingCheck::AddImage(const IndexMap& map, ImageOwner owner) {
  internal::Image image;
  image.offset = map.offset_elements();
  for (const DimModes& modes : map.modes()) {
    image.modes.insert(image.modes.end(), modes.begin(), modes.end());
  }
  owned_.images.push_back(std::move(image));
  owned_.owners.push_back(owner);
}

void TilingCheck::CheckLogicalSide(std::size_t index) {
  const Fragment& fragment = stored_.fragments[index];
  const tensor::Box& box = fragment.map.box();
  if (fragment.tensor < 0 ||
      fragment.tensor >= static_cast<int64_t>(tensors_.size())) {
    faults_.Add(absl::StrCat("fragment ", index, " (box ", box.ToString(),
                             ") of stored tensor ", StoredName(),
                             " names logical tensor ", fragment.tensor,
                             " but there are ", tensors_.size()));
    return;
  }
  const tensor::TensorSpec& spec = tensors_[fragment.tensor];
  const absl::StatusOr<tensor::Box> whole = tensor::Box::OfShape(spec.shape);
  if (!whole.ok()) {
    faults_.Add(absl::StrCat("shape ", tensor::ShapeToString(spec.shape),
                             " of ", Quoted(spec.name), " in stored tensor ",
                             StoredName(),
                             " is invalid: ", whole.status().message()));
  } else if (box.rank() != whole->rank()) {
    faults_.Add(absl::StrCat(NameOf({false, index}), " in stored tensor ",
                             StoredName(), " has rank ", box.rank(),
                             " but the logical shape is ",
                             tensor::ShapeToString(spec.shape)));
  } else if (!tensor::Contains(*whole, box)) {
    faults_.Add(absl::StrCat(NameOf({false, index}), " in stored tensor ",
                             StoredName(), " exceeds logical shape ",
                             tensor::ShapeToString(spec.shape)));
  }
}

void TilingCheck::AddFragment(std::size_t index) {
  CheckLogicalSide(index);
  const IndexMap& map = stored_.fragments[index].map;
  if (map.box().empty()) return;
  if (map.end_offset_elements() > num_elements_) {
    faults_.Add(absl::StrCat(
        NameOf({false, index}), " reaches element ",
        map.end_offset_elements() - 1, " of stored tensor ", StoredName(),
        " but shape ", StoredShape(), " has ", num_elements_, " elements"));
    return;
  }
  AddImage(map, {false, index});
}

void TilingCheck::AddZeroFill(std::size_t index) {
  const tensor::Box& box = stored_.zero_fill[index];
  absl::InlinedVector<int64_t, 4> origin;
  for (const tensor::Range& range : box.ranges()) {
    origin.push_back(range.begin);
  }
  const absl::StatusOr<IndexMap> map =
      IndexMap::RowMajor(box, stored_.shape, origin);
  if (!map.ok()) {
    faults_.Add(absl::StrCat(NameOf({true, index}), " of stored tensor ",
                             StoredName(), " does not lie in shape ",
                             StoredShape()));
  } else if (!box.empty()) {
    AddImage(*map, {true, index});
  }
}

std::string TilingCheck::Describe(const internal::TilingFault& fault) const {
  using Kind = internal::TilingFault::Kind;
  const auto name = [this](int image) { return NameOf(owned_.owners[image]); };
  const std::string where =
      absl::StrCat("elements [", fault.elements.begin, ",", fault.elements.end,
                   ") of stored tensor ", StoredName(), " ");
  switch (fault.kind) {
    case Kind::kOverlap:
      return absl::StrCat(where, "are written by both ", name(fault.first),
                          " and ", name(fault.second));
    case Kind::kRepeat:
      return absl::StrCat(where, "are written more than once by ",
                          name(fault.first));
    case Kind::kHole:
      return absl::StrCat(where,
                          "are written by no fragment and no zero fill (",
                          fault.num_missing, " of ", num_elements_,
                          " elements are missing here)");
    case Kind::kUnproven:
      return absl::StrCat(
          where, "interleave strides that do not divide each other; that can ",
          "be proven for at most ", internal::kMaxBitmapElements,
          " elements, so store these fragments apart");
  }
  return where;
}

absl::Status TilingCheck::Run(bool allow_holes) {
  for (std::size_t i = 0; i < stored_.fragments.size(); ++i) AddFragment(i);
  for (std::size_t i = 0; i < stored_.zero_fill.size(); ++i) AddZeroFill(i);
  for (const internal::TilingFault& fault :
       internal::FindTilingFaults(owned_.images, num_elements_, allow_holes)) {
    faults_.Add(Describe(fault));
  }
  return faults_.ToStatus(absl::StatusCode::kInvalidArgument);
}

}  // namespace

absl::StatusOr<int64_t> NumElements(const StoredTensor& stored) {
  const absl::StatusOr<tensor::Box> box = tensor::Box::OfShape(stored.shape);
  if (!box.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shape ", tensor::ShapeToString(stored.shape), " of stored tensor ",
        Quoted(stored.name), " is invalid: ", box.status().message()));
  }
  return box->num_elements();
}

absl::Status CheckTiling(const StoredTensor& stored,
                         const std::vector<tensor::TensorSpec>& tensors,
                         bool allow_holes) {
  WEFT_ASSIGN_OR_RETURN(const int64_t num_elements, NumElements(stored));
  return TilingCheck(stored, tensors, num_elements).Run(allow_holes);
}

}  // namespace weft::layout
