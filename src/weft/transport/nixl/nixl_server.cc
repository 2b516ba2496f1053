#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/nixl/nixl_server_internal.h"

namespace weft::transport::nixl {
namespace {

using Kind = Message::Kind;

// NIXL has nothing to sleep on, so the thread looks again after a while:
// often for as long as somebody is there, seldom later.
constexpr int kIdleStepsBeforeSleep = 64;
constexpr int kIdleStepsBeforeLongSleep = 256;
constexpr std::chrono::microseconds kShortSleep{100};
constexpr std::chrono::milliseconds kLongSleep{1};
// A client that is gone shows when something is sent to it.
constexpr std::chrono::seconds kClientPingInterval{1};

}  // namespace

std::unique_ptr<Server> Server::Start(
    std::shared_ptr<Agent> agent, std::shared_ptr<Mail> mail, uint64_t instance,
    std::shared_ptr<const RegionTable> regions) {
  std::unique_ptr<Server> server(new Server(std::move(agent), std::move(mail),
                                            instance, std::move(regions)));
  server->thread_ = std::thread([raw = server.get()] { raw->Serve(); });
  return server;
}

Server::~Server() {
  stop_ = true;
  mail_->WakeOwner();
  thread_.join();
  for (auto& [id, client] : clients_) {
    Send(client, {.kind = Kind::kClosed, .client = id});
    Forget(client);
  }
  for (const std::unique_ptr<Ring>& ring : idle_rings_) {
    agent_->Deregister(ring->memory);
  }
}

void Server::Serve() {
  int idle_steps = 0;
  next_ping_ = base::Deadline::After(kClientPingInterval);
  while (!stop_) {
    const std::vector<Message> messages = mail_->TakeForOwner();
    for (const Message& message : messages) Handle(message);
    const bool moved = StepClients() || !messages.empty();
    idle_steps = moved ? 0 : idle_steps + 1;
    if (idle_steps > kIdleStepsBeforeLongSleep) {
      mail_->WaitForOwner(kLongSleep);
    } else if (idle_steps > kIdleStepsBeforeSleep) {
      mail_->WaitForOwner(kShortSleep);
    }
  }
}

void Server::Handle(const Message& message) {
  if (message.kind == Kind::kHello) return Greet(message);
  const auto found = clients_.find(message.client);
  if (found == clients_.end()) return;
  Client& client = found->second;
  switch (message.kind) {
    case Kind::kImport: {
      int64_t size_bytes = 0;
      const absl::Status status = regions_->Visit(
          message.slot, message.generation, [&](const RegisteredRegion& r) {
            size_bytes = static_cast<int64_t>(r.memory.size());
            return absl::OkStatus();
          });
      return Answer(found->first, client, message, status, size_bytes);
    }
    case Kind::kGather:
      client.gathers.push_back(message);
      return;
    case Kind::kTaken:
      client.free_chunks.push_back(
          std::min<uint64_t>(message.chunk, kRingChunks - 1));
      return;
    case Kind::kBye:
      client.lost = true;
      return;
    default:
      return;
  }
}

void Server::Greet(const Message& hello) {
  if (clients_.contains(hello.client)) return;
  // Without its metadata there is no way to answer: its deadline tells it.
  if (!agent_->Acquire(hello.agent, hello.metadata).ok()) return;
  Client& client = clients_[hello.client];
  client.agent = hello.agent;
  absl::Status status = absl::OkStatus();
  if (hello.instance != instance_) {
    status = absl::UnavailableError(
        absl::StrCat("endpoint ", hello.instance, " is gone; endpoint ",
                     instance_, " has its address now"));
  } else if (hello.version != kWireVersion) {
    status = absl::UnavailableError(absl::StrCat(
        "it speaks version ", kWireVersion,
        " of the nixl messages, this process version ", hello.version));
  }
  Answer(hello.client, client, hello, status);
}

void Server::Send(Client& client, const Message& message) {
  if (client.lost) return;
  if (!mail_->Send(client.agent, message).ok()) client.lost = true;
}

void Server::Answer(uint64_t id, Client& client, const Message& request,
                    absl::Status status, int64_t size_bytes) {
  Send(client, {.kind = Kind::kAnswer,
                .client = id,
                .id = request.id,
                .status = std::move(status),
                .size_bytes = size_bytes});
}

void Server::Forget(Client& client) {
  agent_->Release(client.agent);
  if (client.ring != nullptr) idle_rings_.push_back(std::move(client.ring));
}

bool Server::StepClients() {
  const bool ping = next_ping_.Passed();
  if (ping) next_ping_ = base::Deadline::After(kClientPingInterval);
  bool moved = false;
  for (auto entry = clients_.begin(); entry != clients_.end();) {
    auto& [id, client] = *entry;
    if (ping) Send(client, {.kind = Kind::kPing, .client = id});
    if (!client.lost) moved = PackNext(id, client) || moved;
    if (client.lost) {
      Forget(client);
      entry = clients_.erase(entry);
    } else {
      ++entry;
    }
  }
  return moved;
}

absl::StatusOr<std::unique_ptr<Server::Ring>> Server::MakeRing() {
  if (!idle_rings_.empty()) {
    std::unique_ptr<Ring> ring = std::move(idle_rings_.back());
    idle_rings_.pop_back();
    return ring;
  }
  auto ring = std::make_unique<Ring>();
  WEFT_ASSIGN_OR_RETURN(
      ring->buffer, memory::Buffer::Allocate(memory::MemoryKind::kHost,
                                             kRingChunks * kRingChunkBytes));
  const absl::Span<std::byte> span = ring->buffer->span();
  ring->memory = {.address = reinterpret_cast<uint64_t>(span.data()),
                  .bytes = span.size(),
                  .device = agent_->NewDevice()};
  WEFT_RETURN_IF_ERROR(agent_->Register(ring->memory));
  absl::StatusOr<std::string> metadata = agent_->Describe(ring->memory);
  if (!metadata.ok()) {
    agent_->Deregister(ring->memory);
    return metadata.status();
  }
  ring->metadata = *std::move(metadata);
  return ring;
}

absl::Status Server::GiveRing(uint64_t id, Client& client) {
  WEFT_ASSIGN_OR_RETURN(client.ring, MakeRing());
  for (uint64_t chunk = 0; chunk < kRingChunks; ++chunk) {
    client.free_chunks.push_back(chunk);
  }
  Send(client, {.kind = Kind::kRing,
                .client = id,
                .metadata = client.ring->metadata,
                .generation = client.ring->memory.device,
                .size_bytes = kRingChunkBytes,
                .address = client.ring->memory.address});
  return absl::OkStatus();
}

bool Server::PackNext(uint64_t id, Client& client) {
  if (client.gathers.empty()) return false;
  const Message& gather = client.gathers.front();
  absl::Status status =
      client.ring == nullptr ? GiveRing(id, client) : absl::OkStatus();
  if (status.ok() && client.free_chunks.empty()) return false;
  Message chunk{.kind = Kind::kChunk,
                .client = id,
                .id = gather.id,
                .packed_offset_bytes = client.packed_bytes};
  const int64_t whole_bytes = gather.pieces.packed_bytes();
  if (status.ok()) {
    chunk.chunk = client.free_chunks.back();
    chunk.size_bytes =
        std::min(kRingChunkBytes, whole_bytes - client.packed_bytes);
    status = regions_->Visit(
        gather.slot, gather.generation, [&](const RegisteredRegion& region) {
          WEFT_RETURN_IF_ERROR(CheckPieces(
              "this rank", gather.pieces,
              static_cast<int64_t>(region.memory.size()), whole_bytes));
          PackRange(region.memory.data(), gather.pieces, client.packed_bytes,
                    client.ring->buffer->span().subspan(
                        chunk.chunk * kRingChunkBytes,
                        static_cast<size_t>(chunk.size_bytes)));
          return absl::OkStatus();
        });
  }
  if (!status.ok()) {
    Answer(id, client, gather, status);
  } else {
    client.free_chunks.pop_back();
    client.packed_bytes += chunk.size_bytes;
    Send(client, chunk);
    if (client.packed_bytes < whole_bytes) return true;
  }
  client.gathers.pop_front();
  client.packed_bytes = 0;
  return true;
}

}  // namespace weft::transport::nixl
