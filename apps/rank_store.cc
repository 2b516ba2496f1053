#include "rank_store.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstddef>
#include <cstring>

#include "weft/base/status.h"
#include "weft/memory/cuda/cuda_driver.h"

namespace weft::apps {
namespace {

// 100 GB over the slowest PCIe.
base::Deadline Patience() {
  return base::Deadline::After(std::chrono::seconds(120));
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& text) {
  DeviceChoice choice;
  if (text == "cpu") return choice;
  WEFT_ASSIGN_OR_RETURN(choice.device, memory::ParseDevice(text));
  WEFT_ASSIGN_OR_RETURN(choice.driver, memory::CudaDriver());
  WEFT_RETURN_IF_ERROR(choice.driver->Describe(choice.device).status());
  choice.handles = std::make_shared<memory::OpenedHandles>(*choice.driver);
  return choice;
}

void AddDeviceOption(CLI::App& command, std::string& text) {
  command
      .add_option("--device", text,
                  "where this rank's weights lie: cpu, cuda or cuda:N")
      ->capture_default_str();
}

absl::StatusOr<std::unique_ptr<RankStore>> RankStore::Allocate(
    const manifest::Placement& placement, const DeviceChoice& choice) {
  std::unique_ptr<RankStore> store(new RankStore);
  const bool on_device = choice.device != memory::kHostMemory;
  WEFT_ASSIGN_OR_RETURN(
      store->host_,
      session::AllocateFor(placement, on_device ? memory::MemoryKind::kHost
                                                : memory::MemoryKind::kShared));
  if (!on_device) return store;
  for (const layout::StoredTensor& stored : placement.stored) {
    WEFT_ASSIGN_OR_RETURN(store->stored_bytes_.emplace_back(),
                          session::StoredBytes(stored));
  }
  WEFT_ASSIGN_OR_RETURN(
      store->device_,
      session::AllocateOnDevice(placement, *choice.driver, choice.device));
  WEFT_ASSIGN_OR_RETURN(store->queue_, choice.driver->MakeQueue(choice.device));
  return store;
}

absl::Status RankStore::CopyAll(const session::RankMemory& from,
                                const session::RankMemory& to,
                                const char* what) {
  for (size_t i = 0; i < stored_bytes_.size(); ++i) {
    WEFT_RETURN_IF_ERROR(queue_->Copy(session::StoredBase(to, i),
                                      session::StoredBase(from, i),
                                      stored_bytes_[i]));
  }
  return queue_->Wait(Patience(), what);
}

absl::Status RankStore::Upload() {
  if (!on_device()) return absl::OkStatus();
  return CopyAll(host_.memory, device_.memory, "copying weights to the GPU");
}

absl::Status RankStore::Download() {
  if (!on_device()) return absl::OkStatus();
  return CopyAll(device_.memory, host_.memory, "copying weights from the GPU");
}

absl::Status RankStore::Fill(uint8_t value) {
  if (!on_device()) {
    std::memset(host_.buffer->data(), value,
                static_cast<size_t>(host_.buffer->size_bytes()));
    return absl::OkStatus();
  }
  WEFT_RETURN_IF_ERROR(queue_->Fill(device_.buffer->data(), value,
                                    device_.buffer->size_bytes()));
  return queue_->Wait(Patience(), "filling the GPU's memory");
}

absl::Status RankStore::FlipByte() {
  std::byte byte{};
  if (!on_device()) {
    host_.buffer->data()[0] ^= std::byte{0xff};
    return absl::OkStatus();
  }
  WEFT_RETURN_IF_ERROR(queue_->Copy(&byte, device_.buffer->data(), 1));
  WEFT_RETURN_IF_ERROR(queue_->Wait(Patience(), "reading a byte"));
  byte ^= std::byte{0xff};
  WEFT_RETURN_IF_ERROR(queue_->Copy(device_.buffer->data(), &byte, 1));
  return queue_->Wait(Patience(), "writing a byte");
}

}  // namespace weft::apps
