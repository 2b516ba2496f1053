#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/transport/nixl/nixl_agent_internal.h"

namespace weft::transport::nixl {
namespace {

constexpr char kBackend[] = "UCX";
// A setting of UCX, which UCX_PROTO_EMULATION_ENABLE in the environment
// overrides. Where no wire reads memory by itself (RDMA, cma, NVLink), UCX
// would have the owner answer by messages over tcp, from addresses that it does
// not check: a Get of memory that is gone would end the owner's process.
constexpr char kUcxSettings[] = "PROTO_EMULATION_ENABLE=n";

// How long NIXL's progress thread sleeps when nothing wakes it. Its own default
// is not to sleep: a core of every trainer and engine, for nothing.
constexpr std::chrono::microseconds kProgressDelay{1000};

absl::Status Failed(std::string_view what, NixlStatus status) {
  return absl::UnavailableError(absl::StrCat(
      "nixl fails when ", std::string(what), " (status ", status, ")"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<Agent>> Agent::Make(
    std::shared_ptr<const Library> library, std::string name, bool fake_gpus) {
  std::shared_ptr<Agent> agent(
      new Agent(std::move(library), std::move(name), fake_gpus));
  WEFT_RETURN_IF_ERROR(agent->Start());
  return agent;
}

absl::Status Agent::Start() {
  const std::lock_guard lock(mutex_);
  const AgentConfig config{
      .progress_thread = true,
      .progress_delay_us = static_cast<uint64_t>(kProgressDelay.count())};
  NixlStatus status =
      library_->create_configured_agent(name_.c_str(), &config, &agent_);
  if (status != kDone) return Failed("an agent is made", status);
  Handle types = nullptr;
  Handle params = nullptr;
  status = library_->get_plugin_params(agent_, kBackend, &types, &params);
  if (status != kDone) {
    return absl::FailedPreconditionError(
        absl::StrCat(library_->Describe(), " has no plugin ", kBackend));
  }
  library_->params_add(params, "engine_config", kUcxSettings);
  status = library_->create_backend(agent_, kBackend, params, &backend_);
  library_->destroy_mem_list(types);
  library_->destroy_params(params);
  if (status != kDone) return Failed("its ucx is started", status);
  if (status = library_->create_notif_map(&notices_); status != kDone) {
    return Failed("a list of messages is made", status);
  }
  void* data = nullptr;
  size_t bytes = 0;
  status = library_->get_local_md(agent_, &data, &bytes);
  if (status != kDone) return Failed("its address is asked", status);
  connection_.assign(static_cast<const char*>(data), bytes);
  library_->Free(data);
  return absl::OkStatus();
}

Agent::~Agent() {
  const std::lock_guard lock(mutex_);
  CloseLocked();
}

void Agent::CloseLocked() {
  if (notices_ != nullptr) library_->destroy_notif_map(notices_);
  if (backend_ != nullptr) library_->destroy_backend(backend_);
  if (agent_ != nullptr) library_->destroy_agent(agent_);
  notices_ = backend_ = agent_ = nullptr;
}

void Agent::Shut(std::string_view why) {
  const std::lock_guard lock(mutex_);
  if (!shut_.ok()) return;
  shut_ = absl::UnavailableError(
      absl::StrCat("the nixl of this process is shut: ", std::string(why)));
  CloseLocked();
}

Memory Agent::Name(absl::Span<const std::byte> memory, int gpu) {
  const bool on_device = gpu != memory::kHostMemory && !fake_gpus_;
  return {.address = reinterpret_cast<uint64_t>(memory.data()),
          .bytes = memory.size(),
          .device = on_device ? static_cast<uint64_t>(gpu) : ++last_device_,
          .type = on_device ? MemoryType::kDevice : MemoryType::kHost};
}

absl::StatusOr<Handle> Agent::RegistrationList(const Memory& memory) {
  Handle list = nullptr;
  NixlStatus status =
      library_->create_reg_dlist(static_cast<int>(memory.type), &list, false);
  if (status != kDone) return Failed("a list is made", status);
  status = library_->reg_dlist_add_desc(list, memory.address, memory.bytes,
                                        memory.device, nullptr, 0);
  if (status == kDone) return list;
  library_->destroy_reg_dlist(list);
  return Failed("memory is described", status);
}

absl::StatusOr<Handle> Agent::TransferList(const Memory& memory) {
  Handle list = nullptr;
  NixlStatus status =
      library_->create_xfer_dlist(static_cast<int>(memory.type), &list, false);
  if (status != kDone) return Failed("a list is made", status);
  status = library_->xfer_dlist_add_desc(list, memory.address, memory.bytes,
                                         memory.device);
  if (status == kDone) return list;
  library_->destroy_xfer_dlist(list);
  return Failed("memory is described", status);
}

absl::Status Agent::Register(const Memory& memory) {
  const std::lock_guard lock(mutex_);
  WEFT_RETURN_IF_ERROR(shut_);
  WEFT_ASSIGN_OR_RETURN(Handle list, RegistrationList(memory));
  const NixlStatus status = library_->register_mem(agent_, list, nullptr);
  library_->destroy_reg_dlist(list);
  if (status == kDone) return absl::OkStatus();
  return Failed(absl::StrCat(memory.bytes, " bytes of ",
                             memory.type == MemoryType::kDevice
                                 ? absl::StrCat("cuda:", memory.device)
                                 : "the host",
                             " are registered"),
                status);
}

void Agent::Deregister(const Memory& memory) {
  const std::lock_guard lock(mutex_);
  if (!shut_.ok()) return;
  absl::StatusOr<Handle> list = RegistrationList(memory);
  if (!list.ok()) return;
  library_->deregister_mem(agent_, *list, nullptr);
  library_->destroy_reg_dlist(*list);
}

absl::StatusOr<std::string> Agent::Describe(const Memory& memory) {
  const std::lock_guard lock(mutex_);
  WEFT_RETURN_IF_ERROR(shut_);
  WEFT_ASSIGN_OR_RETURN(Handle list, RegistrationList(memory));
  void* data = nullptr;
  size_t bytes = 0;
  const NixlStatus status =
      library_->get_local_partial_md(agent_, list, &data, &bytes, nullptr);
  library_->destroy_reg_dlist(list);
  if (status != kDone) return Failed("a key is made", status);
  std::string metadata(static_cast<const char*>(data), bytes);
  library_->Free(data);
  return metadata;
}

absl::Status Agent::LoadLocked(const std::string& remote,
                               const std::string& metadata) {
  char* name = nullptr;
  const NixlStatus status =
      library_->load_remote_md(agent_, metadata.data(), metadata.size(), &name);
  if (status != kDone) return Failed("a peer's metadata is loaded", status);
  const std::string found = name == nullptr ? "" : name;
  library_->Free(name);
  if (found == remote) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("nixl metadata of \"", found,
                                                 "\" came where that of \"",
                                                 remote, "\" was expected"));
}

absl::Status Agent::Acquire(const std::string& remote,
                            const std::string& metadata) {
  const std::lock_guard lock(mutex_);
  WEFT_RETURN_IF_ERROR(shut_);
  Remote& entry = remotes_[remote];
  if (!entry.loaded && remote != name_) {
    if (absl::Status status = LoadLocked(remote, metadata); !status.ok()) {
      if (entry.users == 0) remotes_.erase(remote);
      return status;
    }
    entry.loaded = true;
  }
  ++entry.users;
  return absl::OkStatus();
}

void Agent::Release(const std::string& remote) {
  const std::lock_guard lock(mutex_);
  const auto found = remotes_.find(remote);
  if (found == remotes_.end() || --found->second.users > 0) return;
  if (found->second.loaded && shut_.ok()) {
    library_->invalidate_remote_md(agent_, remote.c_str());
  }
  remotes_.erase(found);
}

absl::Status Agent::Load(const std::string& remote,
                         const std::string& metadata) {
  // Its own memory is known to an agent from the start.
  if (remote == name_) return absl::OkStatus();
  const std::lock_guard lock(mutex_);
  WEFT_RETURN_IF_ERROR(shut_);
  return LoadLocked(remote, metadata);
}

absl::Status Agent::Send(const std::string& remote, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  WEFT_RETURN_IF_ERROR(shut_);
  const NixlStatus status = library_->gen_notif(
      agent_, remote.c_str(), bytes.data(), bytes.size(), nullptr);
  if (status == kDone || status == kInProgress) return absl::OkStatus();
  return Failed("a message is sent", status);
}

std::vector<std::string> Agent::Receive() {
  std::vector<std::string> messages;
  const std::lock_guard lock(mutex_);
  if (!shut_.ok()) return messages;
  if (library_->get_notifs(agent_, notices_, nullptr) != kDone) return messages;
  size_t senders = 0;
  library_->notif_map_size(notices_, &senders);
  if (senders == 0) return messages;
  for (size_t s = 0; s < senders; ++s) {
    const char* sender = nullptr;
    size_t count = 0;
    library_->notif_map_get_agent_at(notices_, s, &sender);
    library_->notif_map_get_notifs_size(notices_, sender, &count);
    for (size_t i = 0; i < count; ++i) {
      const void* data = nullptr;
      size_t bytes = 0;
      library_->notif_map_get_notif(notices_, sender, i, &data, &bytes);
      messages.emplace_back(static_cast<const char*>(data), bytes);
    }
  }
  // A fresh map: one that holds senders already keeps what was read.
  library_->destroy_notif_map(notices_);
  notices_ = nullptr;
  library_->create_notif_map(&notices_);
  return messages;
}

absl::StatusOr<Handle> Agent::Prepare(Operation operation, const Memory& local,
                                      const Memory& remote,
                                      const std::string& remote_agent) {
  const std::lock_guard lock(mutex_);
  WEFT_RETURN_IF_ERROR(shut_);
  WEFT_ASSIGN_OR_RETURN(Handle near, TransferList(local));
  absl::StatusOr<Handle> far = TransferList(remote);
  if (!far.ok()) {
    library_->destroy_xfer_dlist(near);
    return far.status();
  }
  Handle request = nullptr;
  const NixlStatus status =
      library_->create_xfer_req(agent_, static_cast<int>(operation), near, *far,
                                remote_agent.c_str(), &request, nullptr);
  library_->destroy_xfer_dlist(near);
  library_->destroy_xfer_dlist(*far);
  if (status == kDone) return request;
  return Failed("a transfer is prepared", status);
}

absl::Status Agent::Post(Handle request) {
  const std::lock_guard lock(mutex_);
  WEFT_RETURN_IF_ERROR(shut_);
  const NixlStatus status = library_->post_xfer_req(agent_, request, nullptr);
  if (status == kDone || status == kInProgress) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      Failed("a transfer is posted", status).message(),
      "; it needs RDMA, cma or NVLink between the two, the transport ucx does "
      "not"));
}

NixlStatus Agent::Check(Handle request) {
  const std::lock_guard lock(mutex_);
  if (!shut_.ok()) return kShut;
  return library_->get_xfer_status(agent_, request);
}

void Agent::Drop(Handle request) {
  const std::lock_guard lock(mutex_);
  // One that outlives its agent cannot be released any more.
  if (!shut_.ok()) return;
  library_->release_xfer_req(agent_, request);
  library_->destroy_xfer_req(request);
}

}  // namespace weft::transport::nixl
