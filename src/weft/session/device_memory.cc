#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/checked.h"
#include "weft/base/log.h"
#include "weft/base/status.h"
#include "weft/execute/planes.h"
#include "weft/session/device_memory_internal.h"
#include "weft/tensor/dtype.h"
#include "weft/tensor/tile_grid.h"
#include "weft/verify/digest_table.h"

namespace weft::session {

namespace cuda = convert::cuda;

namespace {

// Of an allocation in small pages, what is worth a word: 0.3 ms to open.
constexpr int64_t kSlowBytes = int64_t{64} << 20;

}  // namespace

absl::StatusOr<DeviceAreas> DeviceAreas::Make(
    const RankMemory& memory, const execute::DeviceOptions& device) {
  DeviceAreas areas;
  areas.driver_ = device.driver;
  for (size_t a = 0; a < memory.areas.size(); ++a) {
    const MemoryArea& area = memory.areas[a];
    if (area.device == memory::kHostMemory) continue;
    if (device.driver == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("area ", a, " lies on GPU ", area.device,
                       ", but no driver is given for it"));
    }
    const absl::StatusOr<memory::DeviceAllocation> found =
        device.driver->Find(area.bytes.data());
    if (!found.ok() || found->device != area.device) {
      return absl::InvalidArgumentError(absl::StrCat(
          "area ", a, " is said to lie on GPU ", area.device, ", but ",
          found.ok() ? absl::StrCat("lies on GPU ", found->device)
                     : std::string(found.status().message())));
    }
    if (found->bytes > kSlowBytes &&
        found->bytes % memory::kDevicePageBytes != 0) {
      base::Log(
          base::LogLevel::kWarning,
          absl::StrCat("area ", a, " lies in an allocation of ", found->bytes,
                       " bytes on GPU ", area.device,
                       ", which is no multiple of 2 MiB: the driver maps it by "
                       "small pages, so that it is opened and copied more "
                       "slowly; allocate ",
                       base::AlignUp(found->bytes, memory::kDevicePageBytes)));
    }
    areas.areas_.push_back({area.bytes.data(), found->id});
  }
  return areas;
}

absl::Status DeviceAreas::Check() const {
  base::FaultList faults;
  for (size_t a = 0; a < areas_.size(); ++a) {
    const auto found = driver_->Find(areas_[a].address);
    if (found.ok() && found->id == areas_[a].allocation) continue;
    faults.Add(absl::StrCat(
        "device memory ", a, " of this rank was freed",
        found.ok()
            ? absl::StrCat(" and allocated again (allocation ", found->id,
                           ", was ", areas_[a].allocation, ")")
            : "",
        " since it was registered; make a new publisher or receiver"));
  }
  return faults.ToStatus(absl::StatusCode::kFailedPrecondition);
}

absl::StatusOr<std::unique_ptr<DevicePublication>> DevicePublication::Make(
    int device, const manifest::Placement& placement, const RankMemory& memory,
    const QuantisedCopies& quantised, const execute::DeviceOptions& options) {
  std::unique_ptr<DevicePublication> made(new DevicePublication);
  made->options_ = options;
  WEFT_ASSIGN_OR_RETURN(made->queue_, options.driver->MakeQueue(device));

  std::vector<std::byte*> bases;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    bases.push_back(StoredBase(memory, i));
  }
  if (const int64_t bytes = quantised.DeviceScratchBytes(); bytes > 0) {
    WEFT_ASSIGN_OR_RETURN(made->scratch_, memory::DeviceBuffer::Allocate(
                                              *options.driver, device, bytes));
  }
  WEFT_ASSIGN_OR_RETURN(
      const std::vector<cuda::ProgramSpec> phases,
      quantised.ForDevice(
          bases, made->scratch_ == nullptr ? nullptr : made->scratch_->data()));
  for (const cuda::ProgramSpec& phase : phases) {
    WEFT_ASSIGN_OR_RETURN(made->quantise_.emplace_back(),
                          options.build(device, phase, {}));
  }

  const verify::TableLayout tables = verify::LayOutTables(placement);
  cuda::ProgramSpec digests;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    const MemoryArea& area = memory.areas[memory.stored[i].buffer];
    if (area.device == memory::kHostMemory) continue;
    const layout::StoredTensor& stored = placement.stored[i];
    for (size_t f = 0; f < stored.fragments.size(); ++f) {
      const layout::IndexMap& map = stored.fragments[f].map;
      const tensor::TileGrid grid = tensor::TileGrid::Of(map.box());
      if (grid.num_tiles == 0) continue;
      execute::AppendDigests(map.box(), map, bases[i],
                             static_cast<int>(tensor::ItemBytes(stored.dtype)),
                             grid, digests.num_values, digests.digests);
      made->slices_.push_back(
          {tables.first_value[i][f], digests.num_values, grid.num_tiles});
      digests.num_values += grid.num_tiles;
    }
  }
  if (!digests.digests.empty()) {
    WEFT_ASSIGN_OR_RETURN(made->digest_, options.build(device, digests, {}));
  }
  return made;
}

absl::Status DevicePublication::Launch(
    cuda::Program& program, const convert::DigestConstants* constants,
    base::Deadline deadline, const char* what) {
  WEFT_RETURN_IF_ERROR(
      program.Launch(reinterpret_cast<CUstream_st*>(queue_->stream()),
                     {.num_sms = options_.num_sms, .constants = constants}));
  return queue_->Wait(deadline, what);
}

absl::Status DevicePublication::Quantise(base::Deadline deadline) {
  if (options_.stream.has_value()) {
    WEFT_RETURN_IF_ERROR(queue_->WaitForStream(*options_.stream));
  }
  for (const auto& program : quantise_) {
    WEFT_RETURN_IF_ERROR(
        Launch(*program, nullptr, deadline, "quantising on the GPU"));
  }
  return absl::OkStatus();
}

absl::Status DevicePublication::Digest(
    const convert::DigestConstants& constants,
    absl::Span<convert::DigestValue> table, base::Deadline deadline) {
  if (digest_ == nullptr) return absl::OkStatus();
  WEFT_RETURN_IF_ERROR(
      Launch(*digest_, &constants, deadline, "digesting on the GPU"));
  const absl::Span<const convert::DigestValue> values =
      digest_->digest_values();
  for (const Slice& slice : slices_) {
    std::copy_n(values.begin() + slice.first_in_program, slice.num_values,
                table.begin() + slice.first_in_table);
  }
  return absl::OkStatus();
}

}  // namespace weft::session
