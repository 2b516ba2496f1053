#include "weft/transport/shm/shm_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/region_key.h"

namespace weft::transport::shm {

absl::StatusOr<std::shared_ptr<SharedRegions>> SharedRegions::Make() {
  WEFT_ASSIGN_OR_RETURN(
      std::unique_ptr<memory::Buffer> words,
      memory::Buffer::Allocate(memory::MemoryKind::kShared,
                               kMaxRegions * sizeof(uint64_t)));
  return std::shared_ptr<SharedRegions>(new SharedRegions(std::move(words)));
}

SharedRegions::SharedRegions(std::unique_ptr<memory::Buffer> words)
    : instance_(RandomId()), words_(std::move(words)) {}

std::atomic_ref<uint64_t> SharedRegions::Word(uint64_t slot) const {
  return std::atomic_ref<uint64_t>(
      reinterpret_cast<uint64_t*>(words_->data())[slot]);
}

absl::StatusOr<RegisteredRegion> SharedRegions::Add(
    absl::Span<std::byte> memory, const memory::Buffer* buffer) {
  const RegisteredRegion region = table_.Add(memory, buffer);
  if (region.slot >= static_cast<uint64_t>(kMaxRegions)) {
    table_.Remove(region);
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", kMaxRegions,
                     " regions of this shm transport are in use; register "
                     "whole allocations instead of single tensors"));
  }
  Word(region.slot).store(region.generation);
  return region;
}

void SharedRegions::Remove(const RegisteredRegion& region) {
  // The word first: a peer that reads after this knows that the bytes are not
  // to be trusted.
  Word(region.slot).store(0);
  table_.Remove(region);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const std::string& name, std::shared_ptr<SharedRegions> regions) {
  WEFT_ASSIGN_OR_RETURN(Fd listener, Listen(name));
  Fd stop_event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_event) {
    return absl::UnavailableError(
        absl::StrCat("eventfd: ", std::strerror(errno)));
  }
  return std::unique_ptr<Server>(new Server(
      std::move(listener), std::move(stop_event), std::move(regions)));
}

Server::Server(Fd listener, Fd stop_event,
               std::shared_ptr<SharedRegions> regions)
    : listener_(std::move(listener)),
      stop_event_(std::move(stop_event)),
      regions_(std::move(regions)),
      thread_([this] { Serve(); }) {}

Server::~Server() {
  const uint64_t one = 1;
  // An eventfd takes a write of eight bytes at once until it overflows.
  [[maybe_unused]] const ssize_t written =
      write(stop_event_.get(), &one, sizeof(one));
  thread_.join();
}

void Server::Serve() {
  while (true) {
    std::vector<pollfd> waiting = {{stop_event_.get(), POLLIN, 0},
                                   {listener_.get(), POLLIN, 0}};
    for (const auto& [fd, owner] : clients_) {
      waiting.push_back({fd, POLLIN | POLLRDHUP, 0});
    }
    if (poll(waiting.data(), waiting.size(), -1) < 0) continue;
    if (waiting[0].revents != 0) return;
    for (size_t i = 2; i < waiting.size(); ++i) {
      if (waiting[i].revents == 0) continue;
      if (!AnswerClient(waiting[i].fd)) clients_.erase(waiting[i].fd);
    }
    if (waiting[1].revents != 0) Accept();
  }
}

void Server::Accept() {
  Fd client(
      accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!client) return;  // it went away before it was accepted
  const int fd = client.get();
  clients_.emplace(fd, std::move(client));
}

bool Server::AnswerClient(int socket) {
  // The message is there already, so this does not wait.
  const auto received =
      Receive(socket, base::Deadline::After(std::chrono::nanoseconds(0)));
  if (!received.ok()) return false;
  const auto request = DecodeRequest(received->bytes);
  if (!request.ok()) return false;
  Answer answer;
  answer.id = request->id;
  if (request->instance != regions_->instance()) {
    answer.status = absl::NotFoundError(
        absl::StrCat("endpoint ", request->instance,
                     " is not here, but endpoint ", regions_->instance()));
    return Send(socket, EncodeAnswer(answer), -1).ok();
  }
  if (request->kind == Request::Kind::kHello) {
    return Send(socket, EncodeAnswer(answer), regions_->words_fd()).ok();
  }
  absl::Status status = AnswerImport(socket, *request);
  if (absl::IsNotFound(status)) {
    answer.status = std::move(status);
    return Send(socket, EncodeAnswer(answer), -1).ok();
  }
  return status.ok();
}

absl::Status Server::AnswerImport(int socket, const Request& request) {
  return regions_->table().Visit(
      request.slot, request.generation, [&](const RegisteredRegion& region) {
        Answer answer;
        answer.id = request.id;
        answer.size_bytes = static_cast<int64_t>(region.memory.size());
        answer.address = reinterpret_cast<uintptr_t>(region.memory.data());
        int passed_fd = -1;
        if (region.shared_buffer != nullptr) {
          passed_fd = region.shared_buffer->fd();
          answer.buffer_offset_bytes =
              region.memory.data() - region.shared_buffer->data();
        }
        return Send(socket, EncodeAnswer(answer), passed_fd);
      });
}

}  // namespace weft::transport::shm
