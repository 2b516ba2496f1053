#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/failover_links_internal.h"
#include "weft/catalog/limits.h"

namespace weft::catalog {
namespace {

constexpr std::chrono::milliseconds kPause(100);
constexpr std::chrono::seconds kAttachTime(5);

}  // namespace

FailoverLinks::FailoverLinks(std::vector<std::string> addresses, Door door,
                             std::chrono::nanoseconds connect_timeout,
                             std::chrono::nanoseconds reconnect_within)
    : addresses_(std::move(addresses)),
      door_(std::move(door)),
      connect_timeout_(connect_timeout),
      reconnect_within_(reconnect_within) {}

void FailoverLinks::Start() {
  keeper_ = std::thread([this] { RunKeeper(); });
}

void FailoverLinks::Close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  keeper_.join();
}

base::Deadline FailoverLinks::GiveUp(base::Deadline deadline) const {
  const base::Deadline patience = base::Deadline::After(reconnect_within_);
  return deadline.when() < patience.when() ? deadline : patience;
}

absl::StatusOr<FailoverLinks::Link> FailoverLinks::Get(
    base::Deadline deadline) {
  const std::lock_guard connecting(connecting_);
  std::size_t first = 0;
  absl::Status refused;
  {
    const std::lock_guard lock(mutex_);
    if (link_.life != 0) return link_;
    first = next_address_;
  }
  for (std::size_t i = 0; i < addresses_.size(); ++i) {
    const std::size_t index = (first + i) % addresses_.size();
    // Another server may answer while one is silent.
    const auto most =
        addresses_.size() > 1
            ? std::min<std::chrono::nanoseconds>(connect_timeout_, kSilence)
            : connect_timeout_;
    const base::Deadline each =
        base::Deadline::After(std::min(most, deadline.Remaining()));
    auto connection = Connect(addresses_[index], door_, each);
    if (!connection.ok()) {
      // That a server is there and refuses says more than that none is.
      if (refused.ok() && !IsUnreachable(connection.status())) {
        refused = connection.status();
      }
      continue;
    }
    const std::lock_guard lock(mutex_);
    next_address_ = index;
    link_ = {++last_life_, *connection, MakeClientOf(*connection)};
    changed_.notify_all();
    return link_;
  }
  if (!refused.ok()) return refused;
  return NoCatalogAnswers(absl::StrJoin(addresses_, " or "));
}

void FailoverLinks::MarkBroken(Held& held) {
  if (held.broken || held.ended || !held.lost.ok()) return;
  held.broken = true;
  held.why = NoCatalogAnswers(absl::StrJoin(addresses_, " or "));
  held.give_up = base::Deadline::After(reconnect_within_);
  changed_.notify_all();
}

void FailoverLinks::Break(uint64_t life) {
  const std::lock_guard lock(mutex_);
  if (link_.life != life) return;
  link_ = {};
  next_address_ = (next_address_ + 1) % addresses_.size();
  // A worker waits and asks through one server: all move together.
  for (const auto& held : held_) MarkBroken(*held);
}

absl::Status FailoverLinks::AwaitAttached(base::Deadline deadline) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, deadline.Remaining(),
                    [this] { return closed_ || NextBroken() == nullptr; });
  const std::shared_ptr<Held> broken = NextBroken();
  return broken == nullptr ? absl::OkStatus() : broken->why;
}

bool FailoverLinks::AllAttached() {
  const std::lock_guard lock(mutex_);
  return std::all_of(held_.begin(), held_.end(), [](const auto& held) {
    return !held->broken && held->lost.ok();
  });
}

void FailoverLinks::Pause(base::Deadline deadline) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(
      lock, std::min<std::chrono::nanoseconds>(kPause, deadline.Remaining()));
}

void FailoverLinks::Remember(const Registration& worker) {
  const std::lock_guard lock(mutex_);
  generations_[worker.worker_id] = worker.generation;
}

Registration FailoverLinks::Recall(const std::string& worker_id) {
  const std::lock_guard lock(mutex_);
  const auto found = generations_.find(worker_id);
  return {worker_id, found == generations_.end() ? 0 : found->second};
}

absl::StatusOr<FailoverLinks::Stream> FailoverLinks::Open(
    const Link& link, const Registration& worker, bool again,
    base::Deadline deadline) {
  v1::AttachRequest request;
  request.set_worker_id(CleanReason(worker.worker_id.substr(0, kMaxTextBytes)));
  if (again) request.set_again_generation(worker.generation);
  // The end of a stream is the first sign that a server is gone.
  auto over = std::make_shared<std::atomic<bool>>(false);
  const auto on_end = [weak = weak_from_this(), over] {
    *over = true;
    if (const auto self = weak.lock()) {
      const std::lock_guard lock(self->mutex_);
      for (const auto& held : self->held_) {
        if (held->inner.over == over) self->MarkBroken(*held);
      }
    }
  };
  WEFT_ASSIGN_OR_RETURN(
      std::unique_ptr<Attachment> opened,
      OpenAttachment(link.connection, request, deadline, on_end));
  return Stream{std::move(opened), std::move(over)};
}

std::shared_ptr<FailoverLinks::Held> FailoverLinks::Hold(
    const Registration& worker, const Link& link, Stream stream) {
  auto held = std::make_shared<Held>();
  held->worker = worker;
  held->inner = std::move(stream);
  held->life = link.life;
  const std::lock_guard lock(mutex_);
  held_.insert(held);
  generations_.erase(worker.worker_id);
  // It may have broken before it was held.
  if (link_.life != link.life || *held->inner.over) MarkBroken(*held);
  return held;
}

void FailoverLinks::End(const std::shared_ptr<Held>& held, bool in_order) {
  Stream inner;  // ends when no lock is held
  const std::lock_guard lock(mutex_);
  held->ended = true;
  held->in_order = in_order;
  held_.erase(held);
  inner = std::exchange(held->inner, {});
  if (in_order && inner.attachment != nullptr) inner.attachment->EndInOrder();
  changed_.notify_all();
}

bool FailoverLinks::IsLost(const std::shared_ptr<Held>& held) {
  const std::lock_guard lock(mutex_);
  return !held->lost.ok();
}

absl::Status FailoverLinks::Health(const std::shared_ptr<Held>& held) {
  const base::Deadline give_up = GiveUp(base::Deadline::Infinite());
  absl::Status health;
  do {
    std::shared_ptr<Attachment> inner;
    uint64_t life = 0;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, give_up.Remaining(),
                        [&] { return closed_ || !held->broken; });
      if (!held->lost.ok()) return held->lost;
      if (closed_ || held->broken) break;
      inner = held->inner.attachment;
      life = held->life;
    }
    health = inner->Health();
    if (!absl::IsUnavailable(health)) return health;
    if (IsUnreachable(health)) {
      Break(life);
      const std::lock_guard lock(mutex_);
      if (held->life == life) MarkBroken(*held);
    } else {
      Pause(give_up);
    }
  } while (!give_up.Passed());
  return health.ok() ? NoCatalogAnswers(absl::StrJoin(addresses_, " or "))
                     : health;
}

std::shared_ptr<FailoverLinks::Held> FailoverLinks::NextBroken() {
  const auto broken =
      std::find_if(held_.begin(), held_.end(),
                   [](const auto& held) { return held->broken; });
  return broken == held_.end() ? nullptr : *broken;
}

void FailoverLinks::RunKeeper() {
  while (true) {
    std::shared_ptr<Held> held;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock,
                    [this] { return closed_ || NextBroken() != nullptr; });
      if (closed_) return;
      held = NextBroken();
    }
    Repair(held);
  }
}

// One attempt.
void FailoverLinks::Repair(const std::shared_ptr<Held>& held) {
  const base::Deadline deadline =
      base::Deadline::After(std::chrono::nanoseconds(kAttachTime));
  absl::Status status = absl::UnavailableError("its generation is not known");
  absl::StatusOr<Stream> opened = status;
  absl::StatusOr<Link> link = status;
  if (held->worker.generation != 0) {
    link = Get(deadline);
    status = link.status();
    if (link.ok()) {
      opened = Open(*link, held->worker, /*again=*/true, deadline);
      status = opened.status();
    }
    const bool may_come = !link.ok() || absl::IsUnavailable(status) ||
                          absl::IsDeadlineExceeded(status);
    if (may_come && !held->give_up.Passed()) {
      if (link.ok() && !absl::IsUnavailable(status)) Break(link->life);
      if (IsUnreachable(status) && link.ok()) Break(link->life);
      {
        const std::lock_guard lock(mutex_);
        if (absl::IsUnavailable(status)) held->why = status;
      }
      Pause(held->give_up);
      return;
    }
  }
  // A catalog that knows nothing of the worker has been started anew.
  if (absl::IsNotFound(status)) {
    status = absl::UnavailableError(status.message());
  }
  // Both end when no lock is held. A worker that has ended meanwhile ends with
  // the new one.
  Stream fresh = opened.ok() ? *std::move(opened) : Stream{};
  Stream old;
  const std::lock_guard lock(mutex_);
  held->broken = false;
  held->lost = status;
  if (held->ended) {
    if (held->in_order && fresh.attachment != nullptr) {
      fresh.attachment->EndInOrder();
    }
    return;
  }
  old = std::exchange(held->inner, std::move(fresh));
  if (old.attachment != nullptr) old.attachment->Abandon();
  if (link.ok()) held->life = link->life;
  if (status.ok() && (link_.life != held->life || *held->inner.over)) {
    MarkBroken(*held);
  }
  changed_.notify_all();
}

}  // namespace weft::catalog
