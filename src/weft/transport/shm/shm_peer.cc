#include "weft/transport/shm/shm_peer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/region_key.h"
#include "weft/transport/shm/shm_server.h"

namespace weft::transport::shm {
namespace {

// Bytes that one Poll moves: about a millisecond, so that a driver of several
// peers serves all of them.
constexpr int64_t kPollBytes = int64_t{8} << 20;
constexpr size_t kMaxStretches = 1024;  // the kernel's IOV_MAX
// The kernel pins pages for each stretch, about a microsecond. Pieces that are
// small and close together are cheaper read with the gaps between them.
constexpr int64_t kMaxDensePieceBytes = 4096;
constexpr int64_t kMaxDenseGap = 16;  // stride over piece
constexpr int64_t kMaxRowBytes = int64_t{256} << 10;

// The pid that owns the other end, as seen from this pid namespace.
absl::StatusOr<pid_t> PeerPid(int socket) {
  ucred credentials = {};
  socklen_t length = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0 ||
      credentials.pid <= 0) {
    return absl::PermissionDeniedError(
        "the peer's pid is not visible in this pid namespace");
  }
  return credentials.pid;
}

}  // namespace

// One system call: stretches of the peer's memory against local spans.
struct ShmPeer::Batch {
  bool is_put = false;
  size_t num_transfers = 0;  // at the head of the queue
  int64_t bytes = 0;
  std::vector<iovec> local;
  std::vector<iovec> remote;
};

ShmPeer::ShmPeer(Fd socket, std::string label, uint64_t instance,
                 std::chrono::nanoseconds import_timeout)
    : socket_(std::move(socket)),
      label_(std::move(label)),
      instance_(instance),
      import_timeout_(import_timeout) {}

absl::StatusOr<std::unique_ptr<Peer>> ShmPeer::Connect(
    const std::string& socket_name, uint64_t instance, std::string label,
    std::chrono::nanoseconds import_timeout, base::Deadline deadline) {
  absl::StatusOr<Fd> socket = ConnectTo(socket_name, deadline);
  if (!socket.ok()) return base::Annotate(socket.status(), label);
  std::unique_ptr<ShmPeer> peer(new ShmPeer(
      *std::move(socket), std::move(label), instance, import_timeout));
  absl::StatusOr<pid_t> pid = PeerPid(peer->socket_.get());
  if (!pid.ok()) return base::Annotate(pid.status(), peer->label_);
  peer->pid_ = *pid;
  peer->pid_fd_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, *pid, 0)));
  // The answer comes after the pid was pinned: the socket was alive then, so
  // the pid was not yet somebody else's.
  Answer answer;
  WEFT_ASSIGN_OR_RETURN(
      const Received received,
      peer->Ask({.kind = Request::Kind::kHello}, answer, deadline));
  if (!answer.status.ok()) {
    return absl::UnavailableError(
        absl::StrCat(peer->label_, ": ", std::string(answer.status.message())));
  }
  absl::StatusOr<std::shared_ptr<memory::SharedMapping>> words =
      memory::SharedMapping::Map(received.fd.get());
  if (!words.ok()) return base::Annotate(words.status(), peer->label_);
  if ((*words)->size_bytes() <
      kMaxRegions * static_cast<int64_t>(sizeof(uint64_t))) {
    return absl::UnavailableError(
        absl::StrCat(peer->label_, " sent a generation table of ",
                     (*words)->size_bytes(), " bytes, too few"));
  }
  peer->generation_words_ = *std::move(words);
  return peer;
}

absl::StatusOr<Received> ShmPeer::Ask(Request request, Answer& answer,
                                      base::Deadline deadline) {
  request.id = ++last_request_;
  request.instance = instance_;
  const auto lost = [this](const absl::Status& status) {
    if (absl::IsUnavailable(status) && death_.ok()) {
      death_ = absl::UnavailableError(absl::StrCat(
          label_, " (pid ", pid_, ") died or closed its shm transport"));
      return death_;
    }
    return base::Annotate(status, label_);
  };
  if (const absl::Status sent = Send(socket_.get(), EncodeRequest(request), -1);
      !sent.ok()) {
    return lost(sent);
  }
  while (true) {
    absl::StatusOr<Received> received = Receive(socket_.get(), deadline);
    if (!received.ok()) return lost(received.status());
    absl::StatusOr<Answer> decoded = DecodeAnswer(received->bytes);
    if (!decoded.ok()) return base::Annotate(decoded.status(), label_);
    // An answer to a request that was given up before is dropped.
    if (decoded->id != request.id) continue;
    answer = *std::move(decoded);
    return received;
  }
}

absl::StatusOr<std::shared_ptr<memory::SharedMapping>> ShmPeer::MapOnce(
    int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) {
    return absl::UnavailableError(
        absl::StrCat(label_, " passed no usable file"));
  }
  std::weak_ptr<memory::SharedMapping>& known = mappings_[info.st_ino];
  if (auto mapping = known.lock()) return mapping;
  absl::StatusOr<std::shared_ptr<memory::SharedMapping>> mapping =
      memory::SharedMapping::Map(fd);
  if (!mapping.ok()) return base::Annotate(mapping.status(), label_);
  known = *mapping;
  return *std::move(mapping);
}

absl::StatusOr<std::unique_ptr<RemoteRegion>> ShmPeer::Import(
    std::string_view key) {
  WEFT_ASSIGN_OR_RETURN(const RegionKey decoded, DecodeKey(kLeaf, key));
  WEFT_RETURN_IF_ERROR(Health());
  if (decoded.instance != instance_) {
    return absl::NotFoundError(
        absl::StrCat("the key was not made by ", label_));
  }
  Answer answer;
  WEFT_ASSIGN_OR_RETURN(const Received received,
                        Ask({.kind = Request::Kind::kImport,
                             .slot = decoded.slot,
                             .generation = decoded.generation},
                            answer, base::Deadline::After(import_timeout_)));
  WEFT_RETURN_IF_ERROR(base::Annotate(answer.status, label_));
  if (answer.size_bytes != decoded.size_bytes ||
      decoded.slot >= static_cast<uint64_t>(kMaxRegions)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the key says ", decoded.size_bytes, " bytes, ", label_,
                     " has a region of ", answer.size_bytes));
  }
  auto region = std::make_unique<ShmRemoteRegion>();
  region->size = answer.size_bytes;
  region->slot = decoded.slot;
  region->generation = decoded.generation;
  region->address = answer.address;
  if (received.fd) {
    WEFT_ASSIGN_OR_RETURN(region->mapping, MapOnce(received.fd.get()));
    region->mapping_offset_bytes = answer.buffer_offset_bytes;
    WEFT_RETURN_IF_ERROR(CheckRange(label_, answer.buffer_offset_bytes,
                                    answer.size_bytes,
                                    region->mapping->size_bytes()));
  }
  return region;
}

absl::Status ShmPeer::Health() {
  if (!death_.ok()) return death_;
  pollfd ends[2] = {{socket_.get(), POLLRDHUP, 0}, {pid_fd_.get(), POLLIN, 0}};
  if (poll(ends, 2, 0) > 0) {
    const bool hung_up =
        (ends[0].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
    // A child that the peer forked may keep its socket open; the pid tells.
    if (hung_up || (pid_fd_ && ends[1].revents != 0)) {
      death_ = absl::UnavailableError(absl::StrCat(
          label_, " (pid ", pid_, ") died or closed its shm transport"));
    }
  }
  return death_;
}

absl::Status ShmPeer::CheckGeneration(const ShmRemoteRegion& remote) const {
  auto* words = reinterpret_cast<uint64_t*>(generation_words_->data());
  if (std::atomic_ref<uint64_t>(words[remote.slot]).load() ==
      remote.generation) {
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("region ", remote.slot,
                                          " of generation ", remote.generation,
                                          " of ", label_, " was freed"));
}

absl::Status ShmPeer::Post(Transfer transfer) {
  WEFT_RETURN_IF_ERROR(death_);
  queued_.push_back(std::move(transfer));
  return absl::OkStatus();
}

absl::Status ShmPeer::Get(const RemoteRegion& remote,
                          int64_t remote_offset_bytes,
                          absl::Span<std::byte> local, const Region*,
                          OpTag tag) {
  const auto bytes = static_cast<int64_t>(local.size());
  WEFT_RETURN_IF_ERROR(
      CheckRange(label_, remote_offset_bytes, bytes, remote.size_bytes()));
  return Post(
      {.tag = tag,
       .remote = static_cast<const ShmRemoteRegion*>(&remote),
       .pieces = {.offset_bytes = remote_offset_bytes, .piece_bytes = bytes},
       .local = local.data(),
       .bytes = bytes});
}

absl::Status ShmPeer::Put(const RemoteRegion& remote,
                          int64_t remote_offset_bytes,
                          absl::Span<const std::byte> local, const Region*,
                          OpTag tag) {
  const auto bytes = static_cast<int64_t>(local.size());
  WEFT_RETURN_IF_ERROR(
      CheckRange(label_, remote_offset_bytes, bytes, remote.size_bytes()));
  return Post(
      {.tag = tag,
       .is_put = true,
       .remote = static_cast<const ShmRemoteRegion*>(&remote),
       .pieces = {.offset_bytes = remote_offset_bytes, .piece_bytes = bytes},
       // A put only reads from here.
       .local = const_cast<std::byte*>(local.data()),
       .bytes = bytes});
}

absl::Status ShmPeer::Gather(const RemoteRegion& remote,
                             const StridedPieces& pieces,
                             absl::Span<std::byte> local, const Region*,
                             OpTag tag) {
  const auto bytes = static_cast<int64_t>(local.size());
  WEFT_RETURN_IF_ERROR(CheckPieces(label_, pieces, remote.size_bytes(), bytes));
  return Post({.tag = tag,
               .remote = static_cast<const ShmRemoteRegion*>(&remote),
               .pieces = pieces,
               .local = local.data(),
               .bytes = bytes});
}

int ShmPeer::Poll(std::vector<Completion>& completions) {
  RunSome(kPollBytes);
  const int appended = static_cast<int>(done_.size());
  completions.insert(completions.end(), done_.begin(), done_.end());
  done_.clear();
  return appended;
}

absl::Status ShmPeer::Flush(base::Deadline deadline) {
  while (!queued_.empty()) {
    WEFT_RETURN_IF_ERROR(
        deadline.Check(absl::StrCat("flushing transfers of ", label_)));
    RunSome(kPollBytes);
  }
  return Health();
}

void ShmPeer::RunSome(int64_t budget_bytes) {
  if (queued_.empty()) return;
  const size_t first_done = done_.size();
  for (int64_t moved = 0; moved < budget_bytes && !queued_.empty();) {
    const int64_t left = budget_bytes - moved;
    Transfer& first = queued_.front();
    const absl::Status fresh =
        death_.ok() ? CheckGeneration(*first.remote) : death_;
    if (!fresh.ok() || first.bytes == 0) {
      FinishFirst(fresh);
      continue;
    }
    if (first.remote->mapping != nullptr) {
      moved += RunMapped(first, left);
      continue;
    }
    const absl::StatusOr<int64_t> bytes = RunForeign(left);
    if (bytes.ok()) {
      moved += *bytes;
    } else {
      FinishFirst(bytes.status());
    }
  }
  // Only now: a peer that was alive after the bytes moved was alive while they
  // did, so its pid had not become another process.
  const absl::Status health = Health();
  if (health.ok()) return;
  for (size_t i = first_done; i < done_.size(); ++i) {
    if (done_[i].status.ok()) done_[i].status = health;
  }
}

void ShmPeer::FinishFirst(absl::Status status) {
  const Transfer& first = queued_.front();
  // Bytes read while the owner freed the region are not the region's.
  if (status.ok()) status = CheckGeneration(*first.remote);
  done_.push_back({first.tag, std::move(status)});
  queued_.pop_front();
}

int64_t ShmPeer::RunMapped(Transfer& transfer, int64_t budget_bytes) {
  const int64_t bytes =
      std::min(budget_bytes, transfer.bytes - transfer.done_bytes);
  std::byte* base = transfer.remote->mapped();
  std::byte* local = transfer.local + transfer.done_bytes;
  if (transfer.is_put) {
    std::memcpy(base + transfer.pieces.offset_bytes + transfer.done_bytes,
                local, static_cast<size_t>(bytes));
  } else {
    PackRange(base, transfer.pieces, transfer.done_bytes,
              {local, static_cast<size_t>(bytes)});
  }
  transfer.done_bytes += bytes;
  if (transfer.done_bytes == transfer.bytes) FinishFirst(absl::OkStatus());
  return bytes;
}

ShmPeer::Batch ShmPeer::CollectBatch(int64_t budget_bytes) const {
  Batch batch;
  batch.is_put = queued_.front().is_put;
  for (const Transfer& transfer : queued_) {
    // What needs a check or another call of its own ends the batch.
    if (transfer.is_put != batch.is_put || transfer.bytes == 0 ||
        transfer.remote->mapping != nullptr ||
        !CheckGeneration(*transfer.remote).ok()) {
      break;
    }
    PieceCursor cursor(transfer.pieces, transfer.done_bytes);
    int64_t taken = 0;
    while (!cursor.done() && batch.bytes + taken < budget_bytes &&
           batch.remote.size() < kMaxStretches) {
      const PieceCursor::Stretch stretch =
          cursor.Next(budget_bytes - batch.bytes - taken);
      batch.remote.push_back(
          {reinterpret_cast<void*>(transfer.remote->address +
                                   static_cast<uint64_t>(stretch.offset_bytes)),
           static_cast<size_t>(stretch.bytes)});
      taken += stretch.bytes;
    }
    if (taken == 0) break;
    batch.local.push_back(
        {transfer.local + transfer.done_bytes, static_cast<size_t>(taken)});
    batch.bytes += taken;
    ++batch.num_transfers;
    if (!cursor.done()) break;
  }
  return batch;
}

std::optional<absl::StatusOr<int64_t>> ShmPeer::RunDenseRow(
    int64_t budget_bytes) {
  Transfer& first = queued_.front();
  const StridedPieces& pieces = first.pieces;
  if (pieces.modes.empty() || pieces.piece_bytes > kMaxDensePieceBytes ||
      pieces.modes.back().stride_bytes > kMaxDenseGap * pieces.piece_bytes) {
    return std::nullopt;
  }
  PieceCursor cursor(pieces, first.done_bytes);
  const PieceCursor::Row row =
      cursor.NextRow(std::min(budget_bytes, kMaxRowBytes));
  if (row.count < 2) return std::nullopt;
  row_.resize(kMaxRowBytes);
  const int64_t span_bytes =
      (row.count - 1) * row.stride_bytes + pieces.piece_bytes;
  const iovec local = {row_.data(), static_cast<size_t>(span_bytes)};
  const iovec remote = {
      reinterpret_cast<void*>(first.remote->address +
                              static_cast<uint64_t>(row.offset_bytes)),
      static_cast<size_t>(span_bytes)};
  const ssize_t moved = process_vm_readv(pid_, &local, 1, &remote, 1, 0);
  if (moved < 0 && errno == EINTR) return 0;
  if (moved < 0) return MeaningOf(errno);
  if (moved < span_bytes) return MeaningOf(EFAULT);
  const int64_t packed_bytes = row.count * pieces.piece_bytes;
  PackRange(
      row_.data(),
      {.modes = {{row.count, row.stride_bytes}},
       .piece_bytes = pieces.piece_bytes},
      0, {first.local + first.done_bytes, static_cast<size_t>(packed_bytes)});
  first.done_bytes += packed_bytes;
  if (first.done_bytes == first.bytes) FinishFirst(absl::OkStatus());
  return span_bytes;
}

absl::StatusOr<int64_t> ShmPeer::RunForeign(int64_t budget_bytes) {
  if (auto row = RunDenseRow(budget_bytes)) return *row;
  const Batch batch = CollectBatch(budget_bytes);
  const auto call = batch.is_put ? process_vm_writev : process_vm_readv;
  const ssize_t moved = call(pid_, batch.local.data(), batch.local.size(),
                             batch.remote.data(), batch.remote.size(), 0);
  if (moved < 0 && errno == EINTR) return 0;
  // Nothing moved though bytes were asked for: the first stretch is at fault.
  if (moved <= 0) return MeaningOf(moved < 0 ? errno : EFAULT);
  int64_t left = moved;
  for (size_t i = 0; i < batch.num_transfers && left > 0; ++i) {
    Transfer& first = queued_.front();
    const int64_t bytes =
        std::min(left, static_cast<int64_t>(batch.local[i].iov_len));
    first.done_bytes += bytes;
    left -= bytes;
    if (first.done_bytes < first.bytes) break;
    FinishFirst(absl::OkStatus());
  }
  return moved;
}

absl::Status ShmPeer::MeaningOf(int error) const {
  const std::string what =
      absl::StrCat("memory of ", label_, " (pid ", pid_, ")");
  switch (error) {
    case EPERM:
    case ENOSYS:
      return absl::PermissionDeniedError(absl::StrCat(
          "this host forbids process ", getpid(), " to access ", what,
          ": allow tracing (kernel.yama.ptrace_scope = 0, or CAP_SYS_PTRACE), "
          "or use the ucx transport, or register kShared buffers"));
    case ESRCH:
      return absl::UnavailableError(
          absl::StrCat(label_, " (pid ", pid_, ") died"));
    case EFAULT:
      return absl::NotFoundError(
          absl::StrCat(what,
                       " is no longer there: its owner freed it while "
                       "it was registered"));
    default:
      return absl::UnavailableError(
          absl::StrCat("cannot access ", what, ": ", std::strerror(error)));
  }
}

}  // namespace weft::transport::shm
