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
    std::shared_ptr<const RegionTable> regions, memory::DeviceDriver* driver) {
  std::unique_ptr<Server> server(new Server(
      std::move(agent), std::move(mail), instance, std::move(regions), driver));
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
      client.RingOn(message.on_device)
          .free_chunks.push_back(
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
  for (ClientRing* each : {&client.host, &client.device}) {
    if (each->ring != nullptr) idle_rings_.push_back(std::move(each->ring));
  }
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

absl::StatusOr<std::unique_ptr<Server::Ring>> Server::MakeRing(int device) {
  for (std::unique_ptr<Ring>& idle : idle_rings_) {
    if (idle->device() != device) continue;
    std::unique_ptr<Ring> ring = std::move(idle);
    std::swap(idle, idle_rings_.back());
    idle_rings_.pop_back();
    return ring;
  }
  auto ring = std::make_unique<Ring>();
  if (device != memory::kHostMemory) {
    ring->chunk_bytes = kDeviceRingChunkBytes;
    const int64_t bytes = kRingChunks * kDeviceRingChunkBytes;
    WEFT_ASSIGN_OR_RETURN(ring->device_buffer, memory::DeviceBuffer::Allocate(
                                                   *driver_, device, bytes));
    ring->span = {ring->device_buffer->data(), static_cast<size_t>(bytes)};
  } else {
    ring->chunk_bytes = kRingChunkBytes;
    WEFT_ASSIGN_OR_RETURN(
        ring->buffer, memory::Buffer::Allocate(memory::MemoryKind::kHost,
                                               kRingChunks * kRingChunkBytes));
    ring->span = ring->buffer->span();
  }
  ring->memory = agent_->Name(ring->span, device);
  WEFT_RETURN_IF_ERROR(agent_->Register(ring->memory));
  absl::StatusOr<std::string> metadata = agent_->Describe(ring->memory);
  if (!metadata.ok()) {
    agent_->Deregister(ring->memory);
    return metadata.status();
  }
  ring->metadata = *std::move(metadata);
  return ring;
}

absl::Status Server::GiveRing(uint64_t id, Client& client, int device) {
  ClientRing& given = client.RingOn(device != memory::kHostMemory);
  WEFT_ASSIGN_OR_RETURN(given.ring, MakeRing(device));
  for (uint64_t chunk = 0; chunk < kRingChunks; ++chunk) {
    given.free_chunks.push_back(chunk);
  }
  Send(client, {.kind = Kind::kRing,
                .client = id,
                .metadata = given.ring->metadata,
                .generation = given.ring->memory.device,
                .size_bytes = given.ring->chunk_bytes,
                .address = given.ring->memory.address,
                .memory_type = static_cast<uint8_t>(given.ring->memory.type),
                .on_device = device != memory::kHostMemory});
  return absl::OkStatus();
}

absl::Status Server::Pack(const RegisteredRegion& region, const Message& gather,
                          int64_t packed_offset_bytes, const Ring& ring,
                          const Message& chunk) {
  const absl::Span<std::byte> to =
      ring.span.subspan(chunk.chunk * static_cast<uint64_t>(ring.chunk_bytes),
                        static_cast<size_t>(chunk.size_bytes));
  if (region.device != memory::kHostMemory) {
    return copier_.PackOnDevice(ring.device(), region.memory.data(),
                                gather.pieces, packed_offset_bytes, to);
  }
  PackRange(region.memory.data(), gather.pieces, packed_offset_bytes, to);
  return absl::OkStatus();
}

bool Server::PackNext(uint64_t id, Client& client) {
  if (client.gathers.empty()) return false;
  const Message& gather = client.gathers.front();
  const int64_t whole_bytes = gather.pieces.packed_bytes();
  int device = memory::kHostMemory;
  absl::Status status = regions_->Visit(
      gather.slot, gather.generation, [&](const RegisteredRegion& region) {
        device = region.device;
        return CheckPieces("this rank", gather.pieces,
                           static_cast<int64_t>(region.memory.size()),
                           whole_bytes);
      });
  Message chunk{.kind = Kind::kChunk,
                .client = id,
                .id = gather.id,
                .on_device = device != memory::kHostMemory,
                .packed_offset_bytes = client.packed_bytes};
  ClientRing& given = client.RingOn(chunk.on_device);
  if (status.ok() && given.ring == nullptr) {
    status = GiveRing(id, client, device);
  }
  if (status.ok() && given.free_chunks.empty()) return false;
  if (status.ok()) {
    chunk.chunk = given.free_chunks.back();
    chunk.size_bytes =
        std::min(given.ring->chunk_bytes, whole_bytes - client.packed_bytes);
    status = regions_->Visit(
        gather.slot, gather.generation, [&](const RegisteredRegion& region) {
          return Pack(region, gather, client.packed_bytes, *given.ring, chunk);
        });
  }
  if (!status.ok()) {
    Answer(id, client, gather, status);
  } else {
    given.free_chunks.pop_back();
    client.packed_bytes += chunk.size_bytes;
    Send(client, chunk);
    if (client.packed_bytes < whole_bytes) return true;
  }
  client.gathers.pop_front();
  client.packed_bytes = 0;
  return true;
}

}  // namespace weft::transport::nixl
