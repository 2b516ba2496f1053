#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/access.h"
#include "weft/transport/ucx/ucx_server_internal.h"

namespace weft::transport::ucx {
namespace {

// The thread sleeps until an event comes; the bound only guards against one
// that a library lost.
constexpr std::chrono::seconds kLongestSleep{1};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const std::shared_ptr<Context>& context, uint64_t instance,
    std::shared_ptr<const RegionTable> regions, memory::DeviceDriver* driver) {
  std::unique_ptr<Server> server(
      new Server(instance, std::move(regions), driver));
  WEFT_ASSIGN_OR_RETURN(server->worker_, Worker::Make(context));
  WEFT_RETURN_IF_ERROR(
      server->worker_->SetHandler(kRequestId, &OnRequest, server.get()));
  server->stop_event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (server->stop_event_ < 0) {
    return absl::UnavailableError(
        absl::StrCat("eventfd: ", std::strerror(errno)));
  }
  server->thread_ = std::thread([raw = server.get()] { raw->Serve(); });
  return server;
}

Server::~Server() {
  stop_ = true;
  const uint64_t one = 1;
  // An eventfd takes a write of eight bytes at once until it overflows.
  [[maybe_unused]] const ssize_t written =
      write(stop_event_, &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
  if (stop_event_ >= 0) close(stop_event_);
}

ucs_status_t Server::OnRequest(void* arg, const void* header,
                               size_t header_bytes, void* data,
                               size_t data_bytes,
                               const ucp_am_recv_param_t* param) {
  // Requests are sent whole; anything else does not come from Weft.
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;
  auto& server = *static_cast<Server*>(arg);
  if (header_bytes > 0) {
    const absl::StatusOr<Request> put =
        DecodeRequest({static_cast<const char*>(header), header_bytes});
    if (put.ok() && put->kind == Request::Kind::kPut) {
      server.HandlePut(*put, {static_cast<const std::byte*>(data), data_bytes});
    }
    return UCS_OK;
  }
  absl::StatusOr<Request> request =
      DecodeRequest({static_cast<const char*>(data), data_bytes});
  // Endpoints must not be made inside a callback, so the loop does the work.
  if (request.ok()) server.inbox_.push_back(*std::move(request));
  return UCS_OK;
}

void Server::HandlePut(const Request& request,
                       absl::Span<const std::byte> payload) {
  const auto found = clients_.find(request.client);
  if (found == clients_.end() || found->second->endpoint == nullptr) return;
  Reply reply{.id = request.id};
  reply.status = regions_->Visit(
      request.slot, request.generation, [&](const RegisteredRegion& region) {
        const int64_t offset_bytes = request.pieces.offset_bytes;
        WEFT_RETURN_IF_ERROR(CheckRange(
            "this rank", offset_bytes, static_cast<int64_t>(payload.size()),
            static_cast<int64_t>(region.memory.size())));
        std::byte* const to = region.memory.data() + offset_bytes;
        if (region.device != memory::kHostMemory) {
          return copier_.Copy(region.device, to, payload.data(),
                              static_cast<int64_t>(payload.size()));
        }
        std::memcpy(to, payload.data(), payload.size());
        return absl::OkStatus();
      });
  Answer(*found->second, reply);
}

void Server::Serve() {
  int idle_steps = 0;
  while (!stop_) {
    bool busy = worker_->Progress();
    busy = HandleInbox() || busy;
    busy = StepClients() || busy;
    if (busy) {
      idle_steps = 0;
    } else if (++idle_steps > kIdleStepsBeforeSleep) {
      worker_->Sleep(stop_event_, kLongestSleep);
    }
  }
  SayGoodbye();
}

bool Server::HandleInbox() {
  if (inbox_.empty()) return false;
  while (!inbox_.empty()) {
    const Request request = std::move(inbox_.front());
    inbox_.pop_front();
    Handle(request);
  }
  return true;
}

void Server::Handle(const Request& request) {
  if (request.kind == Request::Kind::kHello) return Greet(request);
  const auto found = clients_.find(request.client);
  if (found == clients_.end() || found->second->endpoint == nullptr) return;
  Client& client = *found->second;
  Reply reply{.id = request.id};
  switch (request.kind) {
    case Request::Kind::kImport:
      reply.status = regions_->Visit(
          request.slot, request.generation, [&](const RegisteredRegion& r) {
            reply.size_bytes = static_cast<int64_t>(r.memory.size());
            return absl::OkStatus();
          });
      return Answer(client, reply);
    case Request::Kind::kGather:
      reply.status = client.gathers->Add({.id = request.id,
                                          .slot = request.slot,
                                          .generation = request.generation,
                                          .pieces = request.pieces});
      if (!reply.status.ok()) Answer(client, reply);
      return;
    default:
      client.lost = true;  // it said goodbye
  }
}

void Server::Greet(const Request& request) {
  if (clients_.contains(request.client)) return;
  auto client = std::make_unique<Client>();
  absl::StatusOr<ucp_ep_h> endpoint = worker_->Connect(
      request.reply_address,
      [](void* arg, ucp_ep_h, ucs_status_t) {
        static_cast<Client*>(arg)->lost = true;
      },
      client.get());
  // No way back to the client, so its deadline will tell it.
  if (!endpoint.ok()) return;
  client->endpoint = *endpoint;
  client->gathers = std::make_unique<GatherSender>(
      *regions_, copier_, MessageBytes(FastestWire(DescribeLanes(*endpoint))));
  Reply reply{.id = request.id};
  if (request.instance != instance_) {
    reply.status = absl::UnavailableError(
        absl::StrCat("endpoint ", request.instance, " is gone; endpoint ",
                     instance_, " has its address now"));
  } else if (request.version != kWireVersion) {
    reply.status = absl::UnavailableError(absl::StrCat(
        "it speaks version ", kWireVersion,
        " of the ucx messages, this process version ", request.version));
  }
  Answer(*client, reply);
  clients_.emplace(request.client, std::move(client));
}

void Server::Answer(Client& client, const Reply& reply) {
  if (client.lost) return;
  if (!worker_->Send(client.endpoint, kReplyId, Encode(reply)).ok()) {
    client.lost = true;
  }
}

bool Server::StepClients() {
  bool moved = false;
  for (auto entry = clients_.begin(); entry != clients_.end();) {
    Client& client = *entry->second;
    if (client.lost && client.endpoint != nullptr) Close(client);
    if (client.endpoint == nullptr) {
      const bool done = client.gathers->chunks_under_way() == 0;
      entry = done ? clients_.erase(entry) : std::next(entry);
      continue;
    }
    const GatherSender::Step step = client.gathers->SendNext(client.endpoint);
    moved = moved || step.moved;
    if (step.failed) Answer(client, {.id = step.id, .status = step.status});
    ++entry;
  }
  return moved;
}

void Server::Close(Client& client) {
  client.gathers->DropAll();
  worker_->CloseByForce(client.endpoint);
  client.endpoint = nullptr;
}

void Server::SayGoodbye() {
  for (auto& [id, client] : clients_) {
    if (client->endpoint == nullptr) continue;
    client->gathers->DropAll();
    if (!client->lost) Answer(*client, {.kind = Reply::Kind::kBye});
  }
  worker_->PushOut(base::Deadline::After(kGoodbyeLimit));
  for (auto& [id, client] : clients_) {
    if (client->endpoint != nullptr) Close(*client);
  }
}

}  // namespace weft::transport::ucx
