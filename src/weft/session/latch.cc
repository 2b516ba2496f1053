#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/status.h"
#include "weft/session/latch_internal.h"

namespace weft::session {

absl::StatusOr<std::unique_ptr<Latch>> Latch::Open(
    const std::string& path, const std::string& model,
    const manifest::LayoutDigest& layout) {
  std::unique_ptr<Latch> latch(new Latch(path));
  latch->state_.model = model;
  latch->state_.layout_digest_hex = layout.ToHex();
  latch->state_.process_id = getpid();
  if (path.empty()) return latch;
  WEFT_RETURN_IF_ERROR(catalog::CheckName("model", model));
  WEFT_ASSIGN_OR_RETURN(latch->lock_, StateLock::Take(path));
  WEFT_ASSIGN_OR_RETURN(latch->last_life_, ReadStateFile(path));
  if (!latch->last_life_.has_value()) return latch;
  const ReceiverState& last = *latch->last_life_;
  if (last.model != model ||
      last.layout_digest_hex != latch->state_.layout_digest_hex) {
    return absl::FailedPreconditionError(absl::StrCat(
        "state file \"", path, "\" is of a receiver of model \"", last.model,
        "\" with layout ", last.layout_digest_hex, ", this one is of \"", model,
        "\" with layout ", latch->state_.layout_digest_hex,
        "; give each rank a file of its own, or remove it after a change of "
        "layout"));
  }
  if (last.dirty) {
    latch->Fence(absl::StrCat(
        "process ", last.process_id, " began to bring this memory to ",
        catalog::ToString(last.version),
        " and did not commit it (state file \"", path, "\")"));
  }
  return latch;
}

bool Latch::fenced() const {
  absl::MutexLock lock(&mutex_);
  return fenced_;
}

std::string Latch::reason() const {
  absl::MutexLock lock(&mutex_);
  return reason_;
}

absl::Status Latch::Set(const catalog::VersionId& version, std::string reason) {
  WEFT_RETURN_IF_ERROR(Write(/*dirty=*/true, version));
  Fence(std::move(reason));
  return absl::OkStatus();
}

void Latch::Fence(std::string reason) {
  absl::MutexLock lock(&mutex_);
  fenced_ = true;
  reason_ = std::move(reason);
}

absl::Status Latch::Record(const catalog::VersionId& version) {
  return Write(/*dirty=*/false, version);
}

void Latch::Clear() {
  absl::MutexLock lock(&mutex_);
  fenced_ = false;
  reason_.clear();
}

absl::Status Latch::Write(bool dirty, const catalog::VersionId& version) {
  if (path_.empty()) return absl::OkStatus();
  state_.dirty = dirty;
  state_.version = version;
  return WriteStateFile(path_, state_);
}

}  // namespace weft::session
