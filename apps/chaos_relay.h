// A network link that can be made bad: a TCP relay in a thread.
#ifndef WEFT_APPS_CHAOS_RELAY_H_
#define WEFT_APPS_CHAOS_RELAY_H_

#include <atomic>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace weft::apps {

class ChaosRelay {
 public:
  enum class Mode {
    kPass,
    kSilent,  // a partition: nothing arrives and nobody is told
    kReset,   // every connection is reset, new ones too
    kSlow,    // at most 1 KiB every 20 ms in each direction
  };
  // To 127.0.0.1:`target_port`.
  static absl::StatusOr<std::unique_ptr<ChaosRelay>> Start(int target_port);
  ~ChaosRelay();
  ChaosRelay(const ChaosRelay&) = delete;
  ChaosRelay& operator=(const ChaosRelay&) = delete;

  std::string address() const;  // "127.0.0.1:PORT"
  void SetMode(Mode mode);

 private:
  // One direction of a connection.
  struct Flow {
    int from = -1;
    int to = -1;
    std::string held;
    bool at_end = false;
  };
  struct Pair {
    int client = -1;
    int server = -1;
    Flow there;
    Flow back;
    bool broken = false;
  };
  ChaosRelay() = default;
  void Run();
  void Accept(Mode mode);
  void PollPairs(Mode mode);
  static void Close(Pair& pair, bool reset);

  int target_port_ = 0;
  int port_ = 0;
  int listener_ = -1;
  int wake_ = -1;  // an eventfd
  std::atomic<Mode> mode_{Mode::kPass};
  std::atomic<bool> stop_{false};
  std::list<Pair> pairs_;
  std::thread thread_;
};

// A port of 127.0.0.1 that nobody has now, for what is started there later and
// again: the kernel gives it to nobody who takes any port. Another one at each
// call.
absl::StatusOr<int> FreePort();

}  // namespace weft::apps

#endif  // WEFT_APPS_CHAOS_RELAY_H_
