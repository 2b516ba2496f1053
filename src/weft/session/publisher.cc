#include "weft/session/publisher.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/log.h"
#include "weft/base/status.h"
#include "weft/manifest/packed_bytes.h"
#include "weft/session/copy_publisher_internal.h"
#include "weft/session/device_memory_internal.h"
#include "weft/session/epoch_word.h"
#include "weft/session/membership_internal.h"
#include "weft/session/quantised_copy_internal.h"
#include "weft/topology/host.h"
#include "weft/verify/digest_table.h"

namespace weft::session {
namespace {

constexpr int64_t kEpochWordOffsetBytes = 0;
constexpr int64_t kDigestTableOffsetBytes = 64;
// To take a lost place in the catalog again: a caller waits meanwhile.
constexpr std::chrono::seconds kReturnTime(5);

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

// Ranks whose placements differ in nothing but the rank are replicas.
std::string ShardKey(manifest::Placement placement) {
  placement.rank = 0;
  return manifest::DigestOf(manifest::EncodePlacement(placement)).ToHex();
}

class PublisherImpl : public Publisher {
 public:
  PublisherImpl(PublisherOptions options, CopyTerms copy)
      : options_(std::move(options)), copy_(std::move(copy)) {}

  absl::Status Start(base::Deadline deadline) {
    WEFT_RETURN_IF_ERROR(base::Annotate(
        manifest::CheckPlacement(options_.placement, /*is_target=*/false),
        absl::StrCat("rank ", options_.placement.rank)));
    WEFT_RETURN_IF_ERROR(CheckRankMemory(options_.placement, options_.memory));
    WEFT_ASSIGN_OR_RETURN(device_, DeviceOf(options_.memory));
    WEFT_ASSIGN_OR_RETURN(device_areas_,
                          DeviceAreas::Make(options_.memory, options_.device));
    if (!is_copy()) WEFT_RETURN_IF_ERROR(AddQuantisedCopies());
    const verify::TableLayout tables = verify::LayOutTables(options_.placement);
    table_.resize(static_cast<size_t>(tables.num_values));
    WEFT_ASSIGN_OR_RETURN(control_,
                          memory::Buffer::Allocate(
                              memory::MemoryKind::kShared,
                              kDigestTableOffsetBytes + tables.size_bytes()));
    StoreEpochWord(kUpdatingWord);
    for (size_t i = 0; i < options_.memory.stored.size(); ++i) {
      stored_bases_.push_back(StoredBase(options_.memory, i));
      WEFT_ASSIGN_OR_RETURN(const int64_t bytes,
                            StoredBytes(options_.placement.stored[i]));
      weight_bytes_ += bytes;
    }
    if (device_ != memory::kHostMemory) {
      WEFT_ASSIGN_OR_RETURN(
          on_device_,
          DevicePublication::Make(device_, options_.placement, options_.memory,
                                  quantised_, options_.device));
    }
    manifest::Binding binding;
    WEFT_RETURN_IF_ERROR(RegisterMemory(tables.size_bytes(), binding));
    return RegisterWithCatalog(binding, deadline);
  }

  absl::StatusOr<int64_t> BeginUpdate(base::Deadline revoke_after) override {
    const std::lock_guard lock(mutex_);
    absl::StatusOr<int64_t> revoked = BeginUpdateLocked(revoke_after);
    if (revoked.ok()) return revoked;
    return base::Annotate(
        revoked.status(),
        "the update has not begun, change no weights and begin it again");
  }

  absl::StatusOr<PublishReport> Publish(uint64_t step,
                                        base::Deadline deadline) override {
    const std::lock_guard lock(mutex_);
    const auto start = std::chrono::steady_clock::now();
    if (published_ && step <= published_->step) {
      return absl::FailedPreconditionError(
          absl::StrCat("step ", step, " is not above the last published step ",
                       published_->step));
    }
    WEFT_RETURN_IF_ERROR(BeginUpdateLocked(deadline).status());
    const catalog::VersionId version{options_.run_id, options_.epoch, step};
    PublishReport report;
    WEFT_RETURN_IF_ERROR(device_areas_.Check());
    WEFT_RETURN_IF_ERROR(Quantise(deadline));
    report.quantise_seconds = SecondsSince(start);
    const auto digest_start = std::chrono::steady_clock::now();
    WEFT_RETURN_IF_ERROR(Digest(version, deadline));
    if (is_copy()) WEFT_RETURN_IF_ERROR(copy_.check(version, table_));
    std::memcpy(control_->data() + kDigestTableOffsetBytes, table_.data(),
                table_.size() * sizeof(convert::DigestValue));
    report.digest_seconds = SecondsSince(digest_start);
    report.digest_bytes = weight_bytes_;
    StoreEpochWord(EpochWord(version));
    // Even if the call fails: its answer may be what was lost, and then others
    // read this version until the next update is begun.
    updating_ = false;
    WEFT_ASSIGN_OR_RETURN(report.version, PublishShard(step, deadline));
    report.control_seconds =
        SecondsSince(start) - report.digest_seconds - report.quantise_seconds;
    return report;
  }

  absl::Status Health() override { return place_->Health(); }
  const manifest::LayoutDigest& layout_digest() const override {
    return layout_digest_;
  }
  uint64_t generation() const override {
    const std::lock_guard lock(mutex_);
    return place_->registration().generation;
  }

 private:
  bool is_copy() const { return copy_.check != nullptr; }

  // mutex_ is held by all that follows.
  absl::StatusOr<int64_t> BeginUpdateLocked(base::Deadline revoke_after) {
    if (updating_) return 0;
    // Nobody is waited for: who reads a copy goes on from another source.
    if (is_copy()) StoreEpochWord(kUpdatingWord);
    absl::StatusOr<int64_t> revoked =
        options_.catalog->BeginUpdate(place_->worker_id(), revoke_after);
    if (!revoked.ok()) {
      if (is_copy()) return revoked;
      WEFT_RETURN_IF_ERROR(ComeBack(revoked.status()));
      // Under a new name it has nothing to withdraw, and no reader: those of
      // before see the odd word.
      revoked =
          options_.catalog->BeginUpdate(place_->worker_id(), revoke_after);
      WEFT_RETURN_IF_ERROR(revoked.status());
    }
    // Readers that hold a revoked lease see the odd word after their transfer.
    StoreEpochWord(kUpdatingWord);
    updating_ = true;
    return revoked;
  }

  absl::StatusOr<catalog::VersionRecord> PublishShard(uint64_t step,
                                                      base::Deadline deadline) {
    absl::StatusOr<catalog::VersionRecord> published =
        options_.catalog->PublishShard(place_->worker_id(), step, deadline);
    if (!published.ok()) {
      WEFT_RETURN_IF_ERROR(ComeBack(published.status()));
      published =
          options_.catalog->RepublishShard(place_->worker_id(), step, deadline);
      WEFT_RETURN_IF_ERROR(published.status());
    }
    published_ = Published{.step = step,
                           .generation = place_->registration().generation};
    return published;
  }

  // OK if the call that failed may be made once more. A copy stays away: its
  // receiver serves anew after its next commit.
  absl::Status ComeBack(const absl::Status& failed) {
    if (is_copy()) return Explained(failed);
    return place_->ComeBack(failed, base::Deadline::After(kReturnTime));
  }

  // From the membership's thread: receivers wait for what this memory holds,
  // and nobody may call for long. It does hold it: it may not be written since
  // it was published, and the epoch word names it.
  void PublishAgain(base::Deadline deadline) {
    const uint64_t generation = place_->registration().generation;
    if (updating_ || !published_ || published_->generation == generation) {
      return;
    }
    const catalog::VersionId version{options_.run_id, options_.epoch,
                                     published_->step};
    if (LoadEpochWord() != EpochWord(version)) return;
    const auto again = options_.catalog->RepublishShard(
        place_->worker_id(), published_->step, deadline);
    if (absl::IsUnavailable(again.status()) ||
        absl::IsDeadlineExceeded(again.status())) {
      return;
    }
    published_->generation = generation;
    if (again.ok() && again->state != catalog::VersionState::kGone) {
      return Tell(
          absl::StrCat("publishes ", catalog::ToString(version), " again"));
    }
    Tell(absl::StrCat(
        catalog::ToString(version), " is not published again: ",
        again.ok() ? again->reason : std::string(again.status().message())));
  }

  void Tell(const std::string& what) const {
    base::Log(base::LogLevel::kWarning,
              absl::StrCat("model \"", options_.model, "\": publisher rank ",
                           options_.placement.rank, ": ", what));
  }

  // Makes room for them behind the trainer's own memory.
  absl::Status AddQuantisedCopies() {
    const size_t num_own = options_.placement.stored.size();
    WEFT_ASSIGN_OR_RETURN(quantised_,
                          QuantisedCopies::AddTo(options_.placement));
    if (quantised_.empty()) return absl::OkStatus();
    manifest::Placement added;
    added.stored.assign(options_.placement.stored.begin() +
                            static_cast<std::ptrdiff_t>(num_own),
                        options_.placement.stored.end());
    RankMemory room;
    if (device_ != memory::kHostMemory) {
      WEFT_ASSIGN_OR_RETURN(
          quantised_on_device_,
          AllocateOnDevice(added, *options_.device.driver, device_));
      room = quantised_on_device_.memory;
    } else {
      WEFT_ASSIGN_OR_RETURN(quantised_memory_,
                            AllocateFor(added, memory::MemoryKind::kShared));
      room = quantised_memory_.memory;
    }
    const auto area = static_cast<int32_t>(options_.memory.areas.size());
    options_.memory.areas.push_back(room.areas[0]);
    for (const manifest::StoredLocation& where : room.stored) {
      options_.memory.stored.push_back({area, where.offset_bytes});
    }
    return absl::OkStatus();
  }

  absl::Status Quantise(base::Deadline deadline) {
    if (on_device_ != nullptr) return on_device_->Quantise(deadline);
    return quantised_.Refresh(*options_.kernels, stored_bases_,
                              options_.num_threads);
  }

  // Fills table_.
  absl::Status Digest(const catalog::VersionId& version,
                      base::Deadline deadline) {
    const convert::DigestConstants constants =
        convert::DigestConstants::FromSeed(DigestSeed(version));
    std::vector<const std::byte*> on_host(stored_bases_.begin(),
                                          stored_bases_.end());
    for (size_t i = 0; i < on_host.size(); ++i) {
      const MemoryArea& area =
          options_.memory.areas[options_.memory.stored[i].buffer];
      if (area.device != memory::kHostMemory) on_host[i] = nullptr;
    }
    verify::ComputeTables(*options_.kernels, constants, options_.placement,
                          on_host, options_.num_threads,
                          absl::MakeSpan(table_));
    if (on_device_ == nullptr) return absl::OkStatus();
    return on_device_->Digest(constants, absl::MakeSpan(table_), deadline);
  }

  // Why the catalog refused a call: that this worker is no longer attached
  // says more than that it may not do this or that.
  absl::Status Explained(const absl::Status& refused) {
    if (refused.ok()) return refused;
    const absl::Status health = place_->Health();
    return health.ok() ? refused : health;
  }

  uint64_t LoadEpochWord() const {
    return std::atomic_ref<uint64_t>(
               *reinterpret_cast<uint64_t*>(control_->data() +
                                            kEpochWordOffsetBytes))
        .load(std::memory_order_seq_cst);
  }

  void StoreEpochWord(uint64_t word) {
    // Sequentially consistent: weights and digests written before are visible
    // to whoever sees the word, and a word that turns odd is seen before any
    // later change of the weights.
    std::atomic_ref<uint64_t>(
        *reinterpret_cast<uint64_t*>(control_->data() + kEpochWordOffsetBytes))
        .store(word, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }

  absl::Status RegisterMemory(int64_t table_bytes, manifest::Binding& binding) {
    binding.rank = options_.placement.rank;
    WEFT_ASSIGN_OR_RETURN(const topology::HostId host,
                          topology::ReadHostId("/proc"));
    binding.host_id = host.ToString();
    binding.process_id = getpid();
    std::vector<MemoryArea> areas = options_.memory.areas;
    binding.control_buffer = static_cast<int32_t>(areas.size());
    areas.push_back({control_->span(), control_.get()});
    for (const MemoryArea& area : areas) {
      manifest::BufferBinding buffer;
      buffer.bytes = static_cast<int64_t>(area.bytes.size());
      for (const auto& transport : options_.transports) {
        const transport::Capabilities can = transport->capabilities();
        const bool reaches = area.device != memory::kHostMemory
                                 ? can.device_memory
                                 : area.buffer != nullptr || can.foreign_memory;
        if (!reaches) continue;
        absl::StatusOr<std::unique_ptr<transport::Region>> region =
            transport->Register(area.bytes, area.buffer);
        if (!region.ok()) {
          return base::Annotate(region.status(),
                                absl::StrCat("registering memory with ",
                                             std::string(transport->name())));
        }
        buffer.keys.push_back(
            {std::string(transport->name()), (*region)->key()});
        regions_.push_back(*std::move(region));
      }
      binding.buffers.push_back(std::move(buffer));
    }
    for (const auto& transport : options_.transports) {
      binding.addresses.push_back(
          {std::string(transport->name()), transport->address()});
    }
    binding.stored = options_.memory.stored;
    binding.epoch_word_offset_bytes = kEpochWordOffsetBytes;
    binding.digest_table_offset_bytes = kDigestTableOffsetBytes;
    binding.digest_table_bytes = table_bytes;
    return absl::OkStatus();
  }

  absl::Status RegisterWithCatalog(const manifest::Binding& binding,
                                   base::Deadline deadline) {
    const std::string canonical = manifest::EncodePlacement(options_.placement);
    layout_digest_ = manifest::DigestOf(canonical);
    WEFT_ASSIGN_OR_RETURN(
        MembershipTerms terms,
        TermsOf(options_.catalog, options_.model,
                is_copy() ? catalog::Role::kCopy : catalog::Role::kPublisher,
                options_.placement, canonical));
    terms.binding = manifest::EncodeBinding(binding);
    catalog::WorkerInfo& info = terms.info;
    info.run_id = options_.run_id;
    info.epoch = options_.epoch;
    info.labels = options_.labels;
    info.held_shards = copy_.held_shards;
    if (!is_copy()) info.shard_key = ShardKey(options_.placement);
    if (!options_.model_card.empty()) {
      terms.blobs.push_back(manifest::PackBytes(options_.model_card));
      info.model_card_digest_hex = manifest::DigestOf(terms.blobs[1]).ToHex();
    }
    WEFT_ASSIGN_OR_RETURN(place_, Membership::Join(std::move(terms), deadline));
    if (!is_copy()) {
      place_->Watch(mutex_,
                    [this](base::Deadline within) { PublishAgain(within); });
    }
    return absl::OkStatus();
  }

  PublisherOptions options_;
  const CopyTerms copy_;  // with no check: a publisher
  std::unique_ptr<memory::Buffer> control_;
  std::vector<convert::DigestValue> table_;
  std::vector<std::byte*> stored_bases_;
  QuantisedCopies quantised_;
  OwnedRankMemory quantised_memory_;
  // Of a rank whose weights lie on a GPU.
  int device_ = memory::kHostMemory;
  DeviceAreas device_areas_;
  DeviceRankMemory quantised_on_device_;
  std::unique_ptr<DevicePublication> on_device_;
  int64_t weight_bytes_ = 0;
  manifest::LayoutDigest layout_digest_;
  // The caller's, and the membership's thread's.
  mutable std::mutex mutex_;
  bool updating_ = true;  // nothing is readable before the first Publish
  struct Published {
    uint64_t step = 0;
    uint64_t generation = 0;  // of the registration that it was published by
  };
  std::optional<Published> published_;
  // Destroyed first (reverse order): peers lose access before memory goes.
  std::vector<std::unique_ptr<transport::Region>> regions_;
  std::unique_ptr<Membership> place_;
};

absl::StatusOr<std::unique_ptr<Publisher>> Start(PublisherOptions options,
                                                 CopyTerms copy,
                                                 base::Deadline deadline) {
  if (options.kernels == nullptr) options.kernels = &convert::CpuKernels();
  auto publisher =
      std::make_unique<PublisherImpl>(std::move(options), std::move(copy));
  WEFT_RETURN_IF_ERROR(publisher->Start(deadline));
  return publisher;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Publisher>> Publisher::Create(
    PublisherOptions options, base::Deadline deadline) {
  return Start(std::move(options), {}, deadline);
}

absl::StatusOr<std::unique_ptr<Publisher>> PublishCopy(
    PublisherOptions options, CopyTerms terms, base::Deadline deadline) {
  return Start(std::move(options), std::move(terms), deadline);
}

}  // namespace weft::session
