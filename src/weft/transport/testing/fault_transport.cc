#include "weft/transport/testing/fault_transport.h"

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"

namespace weft::transport {
namespace {

void Invert(std::byte& byte) { byte ^= std::byte{0xff}; }

class FaultRemoteRegion final : public RemoteRegion {
 public:
  explicit FaultRemoteRegion(std::unique_ptr<RemoteRegion> region)
      : wrapped(std::move(region)) {}
  int64_t size_bytes() const override { return wrapped->size_bytes(); }
  std::byte* mapped() const override { return nullptr; }

  const std::unique_ptr<RemoteRegion> wrapped;
};

const RemoteRegion& Unwrap(const RemoteRegion& region) {
  return *static_cast<const FaultRemoteRegion&>(region).wrapped;
}

class FaultPeer final : public Peer {
 public:
  FaultPeer(std::unique_ptr<Peer> wrapped, std::shared_ptr<FaultScript> script)
      : wrapped_(std::move(wrapped)), script_(std::move(script)) {}

  const std::string& label() const override { return wrapped_->label(); }

  absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(
      std::string_view key) override {
    WEFT_RETURN_IF_ERROR(death_);
    std::string carried(key);
    const Fault* fault = script_->StrikeImport(label());
    if (fault != nullptr && !carried.empty()) {
      char& byte =
          carried[static_cast<size_t>(fault->byte_index) % carried.size()];
      byte = static_cast<char>(~byte);
    }
    WEFT_ASSIGN_OR_RETURN(std::unique_ptr<RemoteRegion> region,
                          wrapped_->Import(carried));
    return std::make_unique<FaultRemoteRegion>(std::move(region));
  }

  absl::Status Get(const RemoteRegion& remote, int64_t remote_offset_bytes,
                   absl::Span<std::byte> local, const Region* local_region,
                   OpTag tag) override {
    const auto bytes = static_cast<int64_t>(local.size());
    WEFT_RETURN_IF_ERROR(
        CheckRange(label(), remote_offset_bytes, bytes, remote.size_bytes()));
    return Post({.tag = tag, .local = local}, bytes, false,
                [&](int64_t kept_bytes, OpTag inner_tag) {
                  return wrapped_->Get(
                      Unwrap(remote), remote_offset_bytes,
                      local.first(static_cast<size_t>(kept_bytes)),
                      local_region, inner_tag);
                });
  }

  absl::Status Put(const RemoteRegion& remote, int64_t remote_offset_bytes,
                   absl::Span<const std::byte> local,
                   const Region* local_region, OpTag tag) override {
    const auto bytes = static_cast<int64_t>(local.size());
    WEFT_RETURN_IF_ERROR(
        CheckRange(label(), remote_offset_bytes, bytes, remote.size_bytes()));
    return Post(
        {.tag = tag}, bytes, true, [&](int64_t kept_bytes, OpTag inner_tag) {
          return wrapped_->Put(Unwrap(remote), remote_offset_bytes,
                               local.first(static_cast<size_t>(kept_bytes)),
                               local_region, inner_tag);
        });
  }

  absl::Status Gather(const RemoteRegion& remote, const StridedPieces& pieces,
                      absl::Span<std::byte> local, const Region* local_region,
                      OpTag tag) override {
    const auto bytes = static_cast<int64_t>(local.size());
    WEFT_RETURN_IF_ERROR(
        CheckPieces(label(), pieces, remote.size_bytes(), bytes));
    return Post({.tag = tag, .local = local}, bytes, false,
                [&](int64_t kept_bytes, OpTag inner_tag) {
                  return GatherFirst(remote, pieces, local, local_region,
                                     kept_bytes, inner_tag);
                });
  }

  int Poll(std::vector<Completion>& completions) override {
    Progress();
    const int appended = static_cast<int>(done_.size());
    completions.insert(completions.end(), done_.begin(), done_.end());
    done_.clear();
    return appended;
  }

  int64_t in_flight() const override {
    return static_cast<int64_t>(posted_.size() + held_.size() +
                                dropped_.size() + done_.size());
  }

  absl::Status Flush(base::Deadline deadline) override {
    while (death_.ok() &&
           !(posted_.empty() && held_.empty() && dropped_.empty())) {
      WEFT_RETURN_IF_ERROR(
          deadline.Check(absl::StrCat("flushing transfers of ", label())));
      Progress();
    }
    WEFT_RETURN_IF_ERROR(death_);
    return wrapped_->Flush(deadline);
  }

  absl::Status Health() override {
    return death_.ok() ? wrapped_->Health() : death_;
  }

 private:
  struct Op {
    OpTag tag = 0;
    absl::Span<std::byte> local = {};  // what a Get or Gather fills
    const Fault* fault = nullptr;
    int64_t deliveries_awaited = 0;  // while held back
    absl::Status status = absl::OkStatus();
  };

  // `post` posts the first `kept_bytes` of the operation to the wrapped peer.
  template <typename PostFunction>
  absl::Status Post(Op op, int64_t bytes, bool is_put,
                    const PostFunction& post) {
    WEFT_RETURN_IF_ERROR(death_);
    op.fault = script_->StrikeOperation(label(), is_put);
    int64_t kept_bytes = bytes;
    if (Is(op, Fault::Kind::kSilentShort) || Is(op, Fault::Kind::kPartial)) {
      kept_bytes = std::min(bytes, op.fault->bytes);
    }
    const OpTag inner_tag = ++last_tag_;
    WEFT_RETURN_IF_ERROR(post(kept_bytes, inner_tag));
    posted_.emplace(inner_tag, std::move(op));
    posted_bytes_ += bytes;
    if (script_->StrikePeer(label(), posted_bytes_)) {
      death_ = absl::UnavailableError(absl::StrCat(
          label(), " died after ", posted_bytes_, " bytes (injected)"));
    }
    return absl::OkStatus();
  }

  // A gather is cut after whole bytes of the packed result, so the part that
  // is kept goes as one Get for each stretch of a piece; the last one carries
  // the tag, the others are swallowed.
  absl::Status GatherFirst(const RemoteRegion& remote,
                           const StridedPieces& pieces,
                           absl::Span<std::byte> local,
                           const Region* local_region, int64_t kept_bytes,
                           OpTag inner_tag) {
    if (kept_bytes == static_cast<int64_t>(local.size())) {
      return wrapped_->Gather(Unwrap(remote), pieces, local, local_region,
                              inner_tag);
    }
    PieceCursor cursor(pieces, 0);
    int64_t begin = 0;
    while (begin < kept_bytes) {
      const PieceCursor::Stretch stretch = cursor.Next(kept_bytes - begin);
      WEFT_RETURN_IF_ERROR(
          wrapped_->Get(Unwrap(remote), stretch.offset_bytes,
                        local.subspan(static_cast<size_t>(begin),
                                      static_cast<size_t>(stretch.bytes)),
                        local_region, ++last_tag_));
      begin += stretch.bytes;
    }
    return wrapped_->Get(Unwrap(remote), 0, {}, nullptr, inner_tag);
  }

  static bool Is(const Op& op, Fault::Kind kind) {
    return op.fault != nullptr && op.fault->kind == kind;
  }

  void Progress() {
    arrived_.clear();
    wrapped_->Poll(arrived_);
    for (Completion& completion : arrived_) {
      const auto found = posted_.find(completion.tag);
      if (found == posted_.end()) continue;  // a part of a cut gather
      Op op = std::move(found->second);
      posted_.erase(found);
      op.status = std::move(completion.status);
      Arrive(std::move(op));
    }
    if (!death_.ok()) {
      FailAll();
    } else if (posted_.empty()) {
      ReleaseHeld(INT64_MAX);
    }
  }

  // What happens to an operation that the wrapped peer completed.
  void Arrive(Op op) {
    if (Is(op, Fault::Kind::kDrop)) return dropped_.push_back(std::move(op));
    if (Is(op, Fault::Kind::kDelay)) {
      op.deliveries_awaited = op.fault->operations;
      return held_.push_back(std::move(op));
    }
    if (Is(op, Fault::Kind::kFlipByte) && op.status.ok() && !op.local.empty()) {
      Invert(op.local[static_cast<size_t>(op.fault->byte_index) %
                      op.local.size()]);
    }
    if (Is(op, Fault::Kind::kPartial) && op.status.ok()) {
      op.status = absl::UnavailableError(
          absl::StrCat(label(), " gave only ", op.fault->bytes,
                       " bytes of a transfer (injected)"));
    }
    Deliver(std::move(op));
    ReleaseHeld(1);
  }

  void Deliver(Op op) {
    if (!death_.ok()) op.status = death_;
    done_.push_back({op.tag, std::move(op.status)});
  }

  // Counts `deliveries`; what has waited for enough of them is delivered.
  void ReleaseHeld(int64_t deliveries) {
    std::deque<Op> waiting = std::exchange(held_, {});
    for (Op& op : waiting) {
      op.deliveries_awaited -= std::min(deliveries, op.deliveries_awaited);
      if (op.deliveries_awaited > 0) {
        held_.push_back(std::move(op));
      } else {
        Deliver(std::move(op));
      }
    }
  }

  // The wrapped peer may still write to local memory for what is posted, so
  // only what it has completed can fail; the rest follows as it completes.
  void FailAll() {
    ReleaseHeld(INT64_MAX);
    for (Op& op : std::exchange(dropped_, {})) Deliver(std::move(op));
  }

  const std::unique_ptr<Peer> wrapped_;
  const std::shared_ptr<FaultScript> script_;
  OpTag last_tag_ = 0;
  int64_t posted_bytes_ = 0;
  absl::Status death_;
  std::unordered_map<OpTag, Op> posted_;  // by the tag that wrapped_ sees
  std::deque<Op> held_;
  std::deque<Op> dropped_;
  std::vector<Completion> arrived_;
  std::vector<Completion> done_;
};

class FaultTransport final : public Transport {
 public:
  FaultTransport(std::unique_ptr<Transport> wrapped,
                 std::shared_ptr<FaultScript> script)
      : wrapped_(std::move(wrapped)), script_(std::move(script)) {}

  std::string_view name() const override { return wrapped_->name(); }
  std::string description() const override {
    return absl::StrCat(wrapped_->description(), " with injected faults");
  }
  Capabilities capabilities() const override {
    Capabilities capabilities = wrapped_->capabilities();
    capabilities.mapped = false;
    return capabilities;
  }
  const std::string& address() const override { return wrapped_->address(); }
  absl::StatusOr<std::unique_ptr<Region>> Register(
      absl::Span<std::byte> memory, const memory::Buffer* buffer) override {
    return wrapped_->Register(memory, buffer);
  }
  absl::StatusOr<std::unique_ptr<Peer>> Connect(
      std::string_view address, std::string label,
      base::Deadline deadline) override {
    WEFT_ASSIGN_OR_RETURN(
        std::unique_ptr<Peer> peer,
        wrapped_->Connect(address, std::move(label), deadline));
    return std::make_unique<FaultPeer>(std::move(peer), script_);
  }

 private:
  const std::unique_ptr<Transport> wrapped_;
  const std::shared_ptr<FaultScript> script_;
};

}  // namespace

void FaultScript::Add(Fault fault) {
  auto entry = std::make_unique<Entry>();
  entry->fault = std::move(fault);
  absl::MutexLock lock(&mutex_);
  entries_.push_back(std::move(entry));
}

int64_t FaultScript::struck() const {
  absl::MutexLock lock(&mutex_);
  return std::count_if(entries_.begin(), entries_.end(),
                       [](const auto& entry) { return entry->struck; });
}

const Fault* FaultScript::Strike(const std::string& label, bool import,
                                 bool is_put) {
  absl::MutexLock lock(&mutex_);
  const Fault* striking = nullptr;
  for (const std::unique_ptr<Entry>& entry : entries_) {
    const Fault& fault = entry->fault;
    if (entry->struck || fault.kind == Fault::Kind::kPeerDeath ||
        (fault.kind == Fault::Kind::kCorruptKey) != import ||
        (fault.kind == Fault::Kind::kFlipByte && is_put) ||
        !absl::StrContains(label, fault.peer_label)) {
      continue;
    }
    const bool is_due = entry->seen++ >= fault.nth;
    if (!is_due || striking != nullptr) continue;
    entry->struck = true;
    striking = &fault;
  }
  return striking;
}

const Fault* FaultScript::StrikeOperation(const std::string& label,
                                          bool is_put) {
  return Strike(label, false, is_put);
}

const Fault* FaultScript::StrikeImport(const std::string& label) {
  return Strike(label, true, false);
}

bool FaultScript::StrikePeer(const std::string& label, int64_t posted_bytes) {
  absl::MutexLock lock(&mutex_);
  for (const std::unique_ptr<Entry>& entry : entries_) {
    if (entry->struck || entry->fault.kind != Fault::Kind::kPeerDeath ||
        posted_bytes < entry->fault.bytes ||
        !absl::StrContains(label, entry->fault.peer_label)) {
      continue;
    }
    entry->struck = true;
    return true;
  }
  return false;
}

std::unique_ptr<Transport> MakeFaultTransport(
    std::unique_ptr<Transport> wrapped, std::shared_ptr<FaultScript> script) {
  return std::make_unique<FaultTransport>(std::move(wrapped),
                                          std::move(script));
}

}  // namespace weft::transport
