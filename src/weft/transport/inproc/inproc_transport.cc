#include "weft/transport/inproc/inproc_transport.h"

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/byte_codec.h"
#include "weft/base/status.h"
#include "weft/memory/shared_mapping.h"
#include "weft/transport/access.h"
#include "weft/transport/region_key.h"
#include "weft/transport/region_table.h"

namespace weft::transport {
namespace {

constexpr std::string_view kLeaf = "inproc";
// Transfers that one Poll carries out: few, so that a caller sees a window
// drain bit by bit as it would on a wire.
constexpr int kTransfersPerPoll = 16;

// What peers see of a transport; outlives it while peers are connected.
struct Endpoint {
  const uint64_t instance = RandomId();
  std::atomic<bool> alive = true;
  RegionTable regions;
};

// Endpoints of this process by instance.
class Registry {
 public:
  static Registry& Get() {
    static auto* registry = new Registry;
    return *registry;
  }
  void Add(const std::shared_ptr<Endpoint>& endpoint) {
    absl::MutexLock lock(&mutex_);
    endpoints_[endpoint->instance] = endpoint;
  }
  void Remove(const Endpoint& endpoint) {
    absl::MutexLock lock(&mutex_);
    endpoints_.erase(endpoint.instance);
  }
  std::shared_ptr<Endpoint> Find(uint64_t instance) {
    absl::MutexLock lock(&mutex_);
    const auto found = endpoints_.find(instance);
    return found == endpoints_.end() ? nullptr : found->second;
  }

 private:
  absl::Mutex mutex_;
  std::map<uint64_t, std::shared_ptr<Endpoint>> endpoints_
      ABSL_GUARDED_BY(mutex_);
};

class InprocRegion final : public Region {
 public:
  InprocRegion(std::shared_ptr<Endpoint> endpoint, RegisteredRegion region)
      : endpoint_(std::move(endpoint)),
        region_(region),
        key_(EncodeKey(
            kLeaf, {.instance = endpoint_->instance,
                    .slot = region.slot,
                    .generation = region.generation,
                    .size_bytes = static_cast<int64_t>(region.memory.size()),
                    .mappable = region.shared_buffer != nullptr})) {}
  ~InprocRegion() override { endpoint_->regions.Remove(region_); }
  absl::Span<std::byte> memory() const override { return region_.memory; }
  const std::string& key() const override { return key_; }

 private:
  std::shared_ptr<Endpoint> endpoint_;
  RegisteredRegion region_;
  std::string key_;
};

class InprocRemoteRegion final : public RemoteRegion {
 public:
  InprocRemoteRegion(RegionKey region_key,
                     std::shared_ptr<memory::SharedMapping> mapping,
                     int64_t mapping_offset_bytes)
      : key(std::move(region_key)),
        mapping_(std::move(mapping)),
        mapping_offset_bytes_(mapping_offset_bytes) {}
  int64_t size_bytes() const override { return key.size_bytes; }
  std::byte* mapped() const override {
    return mapping_ == nullptr ? nullptr
                               : mapping_->data() + mapping_offset_bytes_;
  }

  const RegionKey key;

 private:
  std::shared_ptr<memory::SharedMapping> mapping_;
  int64_t mapping_offset_bytes_;
};

class InprocPeer final : public Peer {
 public:
  InprocPeer(std::shared_ptr<Endpoint> target, std::string label)
      : target_(std::move(target)), label_(std::move(label)) {}

  const std::string& label() const override { return label_; }

  absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(
      std::string_view key) override {
    WEFT_ASSIGN_OR_RETURN(const RegionKey decoded, DecodeKey(kLeaf, key));
    WEFT_RETURN_IF_ERROR(Health());
    if (decoded.instance != target_->instance) {
      return absl::NotFoundError(
          absl::StrCat("the key was not made by ", label_));
    }
    std::shared_ptr<memory::SharedMapping> mapping;
    int64_t mapping_offset_bytes = 0;
    const auto map = [&](const RegisteredRegion& region) -> absl::Status {
      if (region.shared_buffer == nullptr) return absl::OkStatus();
      WEFT_ASSIGN_OR_RETURN(
          mapping, memory::SharedMapping::Map(region.shared_buffer->fd()));
      mapping_offset_bytes =
          region.memory.data() - region.shared_buffer->data();
      return absl::OkStatus();
    };
    WEFT_RETURN_IF_ERROR(base::Annotate(
        target_->regions.Visit(decoded.slot, decoded.generation, map), label_));
    return std::make_unique<InprocRemoteRegion>(decoded, std::move(mapping),
                                                mapping_offset_bytes);
  }

  absl::Status Get(const RemoteRegion& remote, int64_t remote_offset_bytes,
                   absl::Span<std::byte> local, const Region*,
                   OpTag tag) override {
    WEFT_RETURN_IF_ERROR(CheckRange(label_, remote_offset_bytes,
                                    static_cast<int64_t>(local.size()),
                                    remote.size_bytes()));
    return Post(remote, tag, [=](absl::Span<std::byte> region) {
      if (local.empty()) return;
      std::memcpy(local.data(), region.data() + remote_offset_bytes,
                  local.size());
    });
  }

  absl::Status Put(const RemoteRegion& remote, int64_t remote_offset_bytes,
                   absl::Span<const std::byte> local, const Region*,
                   OpTag tag) override {
    WEFT_RETURN_IF_ERROR(CheckRange(label_, remote_offset_bytes,
                                    static_cast<int64_t>(local.size()),
                                    remote.size_bytes()));
    return Post(remote, tag, [=](absl::Span<std::byte> region) {
      if (local.empty()) return;
      std::memcpy(region.data() + remote_offset_bytes, local.data(),
                  local.size());
    });
  }

  absl::Status Gather(const RemoteRegion& remote, const StridedPieces& pieces,
                      absl::Span<std::byte> local, const Region*,
                      OpTag tag) override {
    WEFT_RETURN_IF_ERROR(CheckPieces(label_, pieces, remote.size_bytes(),
                                     static_cast<int64_t>(local.size())));
    return Post(remote, tag, [=](absl::Span<std::byte> region) {
      if (!local.empty()) PackRange(region.data(), pieces, 0, local);
    });
  }

  int Poll(std::vector<Completion>& completions) override {
    for (int i = 0; i < kTransfersPerPoll && !queued_.empty(); ++i) RunNext();
    const int appended = static_cast<int>(done_.size());
    completions.insert(completions.end(), done_.begin(), done_.end());
    done_.clear();
    return appended;
  }

  int64_t in_flight() const override {
    return static_cast<int64_t>(queued_.size() + done_.size());
  }

  absl::Status Flush(base::Deadline deadline) override {
    while (!queued_.empty()) {
      WEFT_RETURN_IF_ERROR(
          deadline.Check(absl::StrCat("flushing transfers of ", label_)));
      RunNext();
    }
    return Health();
  }

  absl::Status Health() override {
    if (target_->alive) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat(label_, " closed its transport"));
  }

 private:
  struct Transfer {
    OpTag tag = 0;
    uint64_t slot = 0;
    uint64_t generation = 0;
    std::function<void(absl::Span<std::byte> region)> copy;
  };

  absl::Status Post(const RemoteRegion& remote, OpTag tag,
                    std::function<void(absl::Span<std::byte>)> copy) {
    WEFT_RETURN_IF_ERROR(Health());
    const RegionKey& key = static_cast<const InprocRemoteRegion&>(remote).key;
    queued_.push_back({tag, key.slot, key.generation, std::move(copy)});
    return absl::OkStatus();
  }

  void RunNext() {
    const Transfer transfer = std::move(queued_.front());
    queued_.pop_front();
    absl::Status status = Health();
    if (status.ok()) {
      status = base::Annotate(
          target_->regions.Visit(transfer.slot, transfer.generation,
                                 [&](const RegisteredRegion& region) {
                                   transfer.copy(region.memory);
                                   return absl::OkStatus();
                                 }),
          label_);
    }
    done_.push_back({transfer.tag, std::move(status)});
  }

  std::shared_ptr<Endpoint> target_;
  const std::string label_;
  std::deque<Transfer> queued_;
  std::vector<Completion> done_;
};

class InprocTransport final : public Transport {
 public:
  InprocTransport() {
    base::ByteWriter writer;
    writer.U64(endpoint_->instance);
    address_ = Seal(kLeaf, "address", writer.bytes());
    Registry::Get().Add(endpoint_);
  }
  ~InprocTransport() override {
    endpoint_->alive = false;
    Registry::Get().Remove(*endpoint_);
  }

  std::string_view name() const override { return kLeaf; }
  std::string description() const override { return "inproc"; }
  Capabilities capabilities() const override {
    // Constants of a memcpy, not measured here.
    return {.mapped = true,
            .posted = true,
            .gather = true,
            .foreign_memory = true,
            .posted_seconds_per_op = 2e-7,
            .posted_bytes_per_second = 1e10,
            .gather_seconds_per_op = 3e-7,
            .gather_bytes_per_second = 5e9};
  }
  const std::string& address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer* buffer) override {
    WEFT_RETURN_IF_ERROR(CheckRegistration(memory, buffer, true));
    return std::make_unique<InprocRegion>(
        endpoint_, endpoint_->regions.Add(memory, buffer));
  }

  absl::StatusOr<std::unique_ptr<Peer>> Connect(std::string_view address,
                                                std::string label,
                                                base::Deadline) override {
    WEFT_ASSIGN_OR_RETURN(const std::string payload,
                          Unseal(kLeaf, "address", address));
    base::ByteReader reader(payload);
    std::shared_ptr<Endpoint> target = Registry::Get().Find(reader.U64());
    if (target == nullptr) {
      return absl::UnavailableError(absl::StrCat(
          label,
          " is not, or no longer, in this process; connect to peers of "
          "other processes through shm or ucx"));
    }
    return std::make_unique<InprocPeer>(std::move(target), std::move(label));
  }

 private:
  const std::shared_ptr<Endpoint> endpoint_ = std::make_shared<Endpoint>();
  std::string address_;
};

}  // namespace

std::unique_ptr<Transport> MakeInprocTransport() {
  return std::make_unique<InprocTransport>();
}

}  // namespace weft::transport
