// A session that threads of Python share: it ends when nobody is in a call of
// it, and only in the process that made it.
#ifndef WEFT_PYTHON_HELD_SESSION_H_
#define WEFT_PYTHON_HELD_SESSION_H_

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "raise.h"

namespace weft::python {

// Threads: any, with the GIL. A fork of the process has a copy of this object,
// and of the session, whose threads and connections are not the copy's: there
// every call is refused, and the copy of the session is left as it lies.
template <typename Session>
class HeldSession {
 public:
  // `name`: "publisher".
  explicit HeldSession(std::string name) : name_(std::move(name)) {}
  HeldSession(const HeldSession&) = delete;
  HeldSession& operator=(const HeldSession&) = delete;
  // Nobody is in a call then: each call holds its Python object.
  ~HeldSession() { End(); }

  // Once, before the first call.
  void Hold(std::unique_ptr<Session> session) { session_ = std::move(session); }

  // A call of the session, from its making to its end.
  class Call {
   public:
    Call(Call&& other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
    Call& operator=(Call&&) = delete;
    ~Call() {
      if (held_ != nullptr) held_->Leave();
    }
    Session* operator->() const { return held_->session_.get(); }
    Session& operator*() const { return *held_->session_; }

   private:
    friend class HeldSession;
    explicit Call(HeldSession* held) : held_(held) {}
    HeldSession* held_;
  };

  // Raises Refused when closed, in a fork, and in a hook of a call, whose
  // session waits for that hook.
  Call Enter() { return EnterUnless(/*in_call=*/true); }
  // For what waits for no call: hooks may ask it too.
  Call EnterToLook() { return EnterUnless(/*in_call=*/false); }

  // From any thread: whether Close() waits for the calls under way.
  bool closing() const {
    const std::lock_guard lock(mutex_);
    return closing_;
  }

  // Refuses new calls, waits for those under way, ends the session. Raises
  // Refused in a hook.
  void Close() {
    if (getpid() != process_) return;
    {
      const std::lock_guard lock(mutex_);
      if (IsInCall()) RaiseIfError(InHook("close()"));
      closing_ = true;
    }
    WithoutGil([&] {
      std::unique_lock lock(mutex_);
      all_left_.wait(lock, [&] { return callers_.empty(); });
    });
    End();
  }

 private:
  Call EnterUnless(bool in_call) {
    if (getpid() != process_) {
      RaiseIfError(absl::FailedPreconditionError(absl::StrCat(
          "this ", name_, " belongs to process ", process_,
          ", of which this one is a fork; make another one here")));
    }
    const std::lock_guard lock(mutex_);
    if (closing_) {
      RaiseIfError(absl::FailedPreconditionError(
          absl::StrCat("the ", name_, " is closed")));
    }
    if (in_call && IsInCall()) RaiseIfError(InHook("this call"));
    callers_.push_back(std::this_thread::get_id());
    return Call(this);
  }

  void Leave() {
    const std::lock_guard lock(mutex_);
    callers_.erase(std::find(callers_.begin(), callers_.end(),
                             std::this_thread::get_id()));
    if (callers_.empty()) all_left_.notify_all();
  }

  // mutex_ is held by these.
  bool IsInCall() const {
    return std::find(callers_.begin(), callers_.end(),
                     std::this_thread::get_id()) != callers_.end();
  }
  absl::Status InHook(const char* what) const {
    return absl::FailedPreconditionError(
        absl::StrCat(what, " would wait for the hook that makes it; let the ",
                     name_, "'s call return first"));
  }

  void End() {
    if (getpid() != process_) {
      static_cast<void>(session_.release());
      return;
    }
    std::unique_ptr<Session> ended;
    {
      const std::lock_guard lock(mutex_);
      ended = std::move(session_);
    }
    if (ended != nullptr) WithoutGil([&] { ended.reset(); });
  }

  const std::string name_;
  const pid_t process_ = getpid();
  std::unique_ptr<Session> session_;
  mutable std::mutex mutex_;
  std::condition_variable all_left_;
  bool closing_ = false;
  std::vector<std::thread::id> callers_;
};

}  // namespace weft::python

#endif  // WEFT_PYTHON_HELD_SESSION_H_
