// Runs weft_transport_test_peer (peer_main.cc) as a child process.
#ifndef WEFT_TRANSPORT_TESTING_TEST_PEER_H_
#define WEFT_TRANSPORT_TESTING_TEST_PEER_H_

#include <sys/types.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace weft::transport {

// Killed and reaped when destroyed, also while stopped.
class TestPeer {
 public:
  static absl::StatusOr<std::unique_ptr<TestPeer>> Start(
      const std::string& transport_name, const std::string& memory_kind,
      int64_t bytes, uint64_t seed);
  ~TestPeer();

  const std::string& address() const { return address_; }
  const std::string& key() const { return key_; }
  // Sends one command and returns the answer's line.
  std::string Ask(const std::string& command);
  void Signal(int signal);
  // SIGKILL, and waits until the process is gone.
  void Kill();

 private:
  TestPeer() = default;
  std::string ReadLine();

  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
  std::string address_;
  std::string key_;
};

}  // namespace weft::transport

#endif  // WEFT_TRANSPORT_TESTING_TEST_PEER_H_
