#include <utility>

#include "weft/transport/nixl/nixl_mail_internal.h"

namespace weft::transport::nixl {

absl::Status Mail::Send(const std::string& remote, const Message& message) {
  if (remote != agent_->name()) return agent_->Send(remote, Encode(message));
  const std::lock_guard lock(mutex_);
  SortLocked(message);
  return absl::OkStatus();
}

void Mail::SortLocked(Message message) {
  if (IsForOwner(message.kind)) {
    owner_.push_back(std::move(message));
    for_owner_.notify_one();
    return;
  }
  const auto found = clients_.find(message.client);
  if (found != clients_.end()) found->second.push_back(std::move(message));
}

void Mail::Pump() {
  // Under one lock, so that two threads do not turn the order around.
  const std::lock_guard lock(mutex_);
  for (const std::string& bytes : agent_->Receive()) {
    absl::StatusOr<Message> message = Decode(bytes);
    if (message.ok()) SortLocked(*std::move(message));
  }
}

void Mail::Open(uint64_t client) {
  const std::lock_guard lock(mutex_);
  clients_.try_emplace(client);
}

void Mail::Close(uint64_t client) {
  const std::lock_guard lock(mutex_);
  clients_.erase(client);
}

std::vector<Message> Mail::Take(uint64_t client) {
  Pump();
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found == clients_.end()) return {};
  return std::exchange(found->second, {});
}

std::vector<Message> Mail::TakeForOwner() {
  Pump();
  const std::lock_guard lock(mutex_);
  return std::exchange(owner_, {});
}

void Mail::WaitForOwner(std::chrono::nanoseconds longest) {
  std::unique_lock lock(mutex_);
  for_owner_.wait_for(lock, longest,
                      [this] { return woken_ || !owner_.empty(); });
  woken_ = false;
}

void Mail::WakeOwner() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  for_owner_.notify_one();
}

}  // namespace weft::transport::nixl
