#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/status.h"
#include "weft/plan/box_set.h"
#include "weft/plan/source_table.h"

namespace weft::plan {

using tensor::Box;

namespace {

std::string Quoted(std::string_view name) {
  return absl::StrCat("\"", std::string(name), "\"");
}

std::string SpecText(const tensor::TensorSpec& spec) {
  return absl::StrCat(std::string(tensor::DTypeName(spec.dtype)), " ",
                      tensor::ShapeToString(spec.shape));
}

bool LiesWithin(const Box& box, const tensor::Shape& shape) {
  if (box.rank() != static_cast<int>(shape.size())) return false;
  for (int dim = 0; dim < box.rank(); ++dim) {
    if (box.range(dim).end > shape[dim]) return false;
  }
  return true;
}

// Faults of the fragments of one stored tensor that would let a plan read
// outside of it.
void CheckStored(const manifest::Placement& placement,
                 const layout::StoredTensor& stored, base::FaultList& faults) {
  const absl::StatusOr<int64_t> num_elements = layout::NumElements(stored);
  if (!num_elements.ok() ||
      !base::CheckedMul(*num_elements, tensor::ItemBytes(stored.dtype))) {
    faults.Add(absl::StrCat("stored tensor ", Quoted(stored.name),
                            " of source rank ", placement.rank, " has shape ",
                            tensor::ShapeToString(stored.shape),
                            ", which is no size in 64 bits"));
    return;
  }
  const auto where = [&] {
    return absl::StrCat("stored tensor ", Quoted(stored.name),
                        " of source rank ", placement.rank);
  };
  for (const layout::Fragment& fragment : stored.fragments) {
    if (fragment.tensor < 0 ||
        fragment.tensor >= static_cast<int64_t>(placement.tensors.size())) {
      faults.Add(absl::StrCat(where(), " refers to logical tensor ",
                              fragment.tensor, " of ",
                              placement.tensors.size()));
      continue;
    }
    const tensor::TensorSpec& spec = placement.tensors[fragment.tensor];
    if (!LiesWithin(fragment.map.box(), spec.shape)) {
      faults.Add(absl::StrCat(where(), " holds ", fragment.map.box().ToString(),
                              " of ", Quoted(spec.name), ", whose shape is ",
                              tensor::ShapeToString(spec.shape)));
    }
    if (fragment.map.end_offset_elements() > *num_elements) {
      faults.Add(absl::StrCat(where(), " holds ", fragment.map.box().ToString(),
                              " of ", Quoted(spec.name), " up to element ",
                              fragment.map.end_offset_elements(), " of ",
                              *num_elements));
    }
  }
}

}  // namespace

void SourceTable::CheckMesh(base::FaultList& faults) const {
  const manifest::Placement& first = *sources_[0].placement;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const manifest::Placement& each = *sources_[i].placement;
    if (each.rank < 0 || each.rank >= each.num_ranks) {
      faults.Add(absl::StrCat("source rank ", each.rank,
                              " is not below the number of ranks of its mesh, ",
                              each.num_ranks));
    }
    if (i > 0 && each.rank == sources_[i - 1].placement->rank) {
      faults.Add(absl::StrCat("source rank ", each.rank, " is given twice"));
    }
    if (each.layout_spec != first.layout_spec) {
      faults.Add(absl::StrCat("source rank ", each.rank, " has layout ",
                              Quoted(each.layout_spec), " but source rank ",
                              first.rank, " has ", Quoted(first.layout_spec)));
    }
    if (each.num_ranks != first.num_ranks) {
      faults.Add(absl::StrCat("source rank ", each.rank, " is of a mesh of ",
                              each.num_ranks, " ranks but source rank ",
                              first.rank, " of one of ", first.num_ranks));
    }
    for (const layout::StoredTensor& stored : each.stored) {
      CheckStored(each, stored, faults);
    }
  }
}

// Gives every tensor name an entry.
void SourceTable::NameTensors(base::FaultList& faults) {
  for (const SourceInfo& source : sources_) {
    std::vector<int32_t>& entries_of_source = entry_of_tensor_.emplace_back();
    for (const tensor::TensorSpec& spec : source.placement->tensors) {
      const auto [it, is_new] = entry_of_name_.try_emplace(
          spec.name, static_cast<int32_t>(entries_.size()));
      if (is_new) {
        TensorEntry& entry = entries_.emplace_back();
        entry.spec = &spec;
        entry.spec_rank = source.placement->rank;
      }
      const TensorEntry& entry = entries_[it->second];
      if (spec.shape != entry.spec->shape || spec.dtype != entry.spec->dtype) {
        faults.Add(absl::StrCat("tensor ", Quoted(spec.name), " is ",
                                SpecText(*entry.spec), " at source rank ",
                                entry.spec_rank, " but ", SpecText(spec),
                                " at source rank ", source.placement->rank));
      }
      entries_of_source.push_back(it->second);
    }
  }
}

void SourceTable::NameSchemes(base::FaultList& faults) {
  for (size_t i = 0; i < sources_.size(); ++i) {
    const manifest::Placement& placement = *sources_[i].placement;
    for (const layout::ScaledTensor& scaled : placement.scaled) {
      TensorEntry& entry = entries_[entry_of_tensor_[i][scaled.tensor]];
      if (!entry.scheme.has_value()) entry.scheme = scaled.scheme;
      if (*entry.scheme == scaled.scheme) continue;
      faults.Add(absl::StrCat(
          "tensor ", Quoted(entry.spec->name), " is quantised ",
          tensor::ToString(*entry.scheme), " at one source rank but ",
          tensor::ToString(scaled.scheme), " at source rank ", placement.rank));
    }
  }
}

absl::StatusOr<std::shared_ptr<const SourceTable>> SourceTable::Build(
    std::vector<SourceInfo> sources) {
  if (sources.empty()) {
    return absl::InvalidArgumentError(
        "no source rank is given; at least one must publish");
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i].placement == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "source ", i, " of ", sources.size(), " has no placement"));
    }
  }
  std::shared_ptr<SourceTable> table(new SourceTable());
  std::stable_sort(sources.begin(), sources.end(),
                   [](const SourceInfo& a, const SourceInfo& b) {
                     return a.placement->rank < b.placement->rank;
                   });
  table->sources_ = std::move(sources);
  base::FaultList faults;
  table->CheckMesh(faults);
  table->NameTensors(faults);
  table->NameSchemes(faults);
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  table->IndexFragments(table->ListFragments());
  std::vector<manifest::LayoutDigest> digests;
  for (const SourceInfo& source : table->sources_) {
    digests.push_back(source.digest);
  }
  table->digest_ = manifest::CombineDigests(digests);
  return std::shared_ptr<const SourceTable>(std::move(table));
}

absl::StatusOr<std::shared_ptr<const SourceIndex>> SourceIndex::Make(
    std::vector<SourceInfo> sources) {
  return SourceTable::Build(std::move(sources));
}

const TensorEntry* SourceTable::Find(std::string_view tensor_name) const {
  const auto it = entry_of_name_.find(tensor_name);
  return it == entry_of_name_.end() ? nullptr : &entries_[it->second];
}

int32_t SourceTable::SourceOfRank(int64_t rank) const {
  const auto it = std::lower_bound(sources_.begin(), sources_.end(), rank,
                                   [](const SourceInfo& info, int64_t r) {
                                     return info.placement->rank < r;
                                   });
  if (it == sources_.end() || it->placement->rank != rank) return -1;
  return static_cast<int32_t>(it - sources_.begin());
}

std::string SourceTable::MissingRanksText() const {
  constexpr size_t kListed = 8;
  const int64_t num_ranks = sources_[0].placement->num_ranks;
  const int64_t num_missing = num_ranks - static_cast<int64_t>(sources_.size());
  if (num_missing == 0) {
    return absl::StrCat("all ", num_ranks, " source ranks have published");
  }
  std::string listed;
  int64_t rank = 0;
  size_t count = 0;
  for (size_t next = 0; rank < num_ranks && count < kListed; ++rank) {
    if (next < sources_.size() && sources_[next].placement->rank == rank) {
      ++next;
      continue;
    }
    absl::StrAppend(&listed, listed.empty() ? "" : ",", rank);
    ++count;
  }
  if (num_missing > static_cast<int64_t>(kListed)) {
    absl::StrAppend(&listed, " and ", num_missing - kListed, " more");
  }
  return absl::StrCat("source ranks ", listed, " of ", num_ranks,
                      " have not published");
}

}  // namespace weft::plan
