#include "bench_raw.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "bench_case.h"
#include "endpoints.h"
#include "weft/base/status.h"
#include "weft/manifest/binding.h"

namespace weft::bench {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;
constexpr int64_t kMostBytes = int64_t{512} << 20;
constexpr int64_t kWindow = 8;

const std::string* Find(const std::vector<manifest::TransportAddress>& list,
                        const std::string& transport) {
  for (const auto& each : list) {
    if (each.transport == transport) return &each.address;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RawReader>> RawReader::Open(
    const BenchFleet& fleet, const std::string& transport) {
  WEFT_ASSIGN_OR_RETURN(const auto store,
                        apps::ConnectCatalog(fleet.address()));
  // Addresses and keys are for a receiver with a lease; what is opened stays so
  // when the receiver has gone.
  catalog::WorkerInfo info;
  info.model = ModelNameOf(fleet.name());
  info.role = catalog::Role::kReceiver;
  WEFT_ASSIGN_OR_RETURN(const catalog::Registration reader_worker,
                        store->Register(info, "", Patience()));
  WEFT_ASSIGN_OR_RETURN(const auto attachment,
                        store->Attach(reader_worker.worker_id, Patience()));
  WEFT_ASSIGN_OR_RETURN(
      const catalog::Lease lease,
      store->AcquireNewestLease(reader_worker.worker_id, nullptr, Patience()));
  WEFT_ASSIGN_OR_RETURN(
      const catalog::SourceSet set,
      store->GetSources(info.model, lease.lease_id, Patience()));
  WEFT_ASSIGN_OR_RETURN(const manifest::Binding binding,
                        manifest::DecodeBinding(set.sources.at(0).binding));
  const auto largest = std::max_element(
      binding.buffers.begin(), binding.buffers.end(),
      [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  const std::string* address = Find(binding.addresses, transport);
  const std::string* key = Find(largest->keys, transport);
  if (address == nullptr || key == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("source rank 0 does not offer ", transport));
  }
  std::unique_ptr<RawReader> reader(new RawReader);
  WEFT_ASSIGN_OR_RETURN(reader->transports_, apps::MakeTransports(transport));
  transport::Transport& posted = *reader->transports_.front();
  WEFT_ASSIGN_OR_RETURN(reader->peer_,
                        posted.Connect(*address, "source rank 0", Patience()));
  WEFT_ASSIGN_OR_RETURN(reader->remote_, reader->peer_->Import(*key));
  WEFT_ASSIGN_OR_RETURN(
      reader->local_, memory::Buffer::Allocate(
                          memory::MemoryKind::kHost,
                          std::min(kMostBytes, reader->remote_->size_bytes())));
  // Touched first: the kernel's clearing of pages is not the wire's time.
  std::fill_n(reader->local_->data(), reader->local_->size_bytes(),
              std::byte{0xA5});
  WEFT_ASSIGN_OR_RETURN(
      reader->local_region_,
      posted.Register(reader->local_->span(), reader->local_.get()));
  return reader;
}

absl::StatusOr<double> RawReader::ReadRate() {
  const int64_t bytes = local_->size_bytes();
  const auto start = std::chrono::steady_clock::now();
  std::vector<transport::Completion> completions;
  int64_t posted_bytes = 0;
  int64_t outstanding = 0;
  while (posted_bytes < bytes || outstanding > 0) {
    while (posted_bytes < bytes && outstanding < kWindow) {
      const int64_t piece = std::min(kPieceBytes, bytes - posted_bytes);
      WEFT_RETURN_IF_ERROR(
          peer_->Get(*remote_, posted_bytes,
                     local_->span().subspan(static_cast<size_t>(posted_bytes),
                                            static_cast<size_t>(piece)),
                     local_region_.get(), static_cast<uint64_t>(posted_bytes)));
      posted_bytes += piece;
      ++outstanding;
    }
    completions.clear();
    outstanding -= peer_->Poll(completions);
    for (const auto& each : completions) WEFT_RETURN_IF_ERROR(each.status);
  }
  return static_cast<double>(bytes) /
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
             .count() /
         1e9;
}

}  // namespace weft::bench
