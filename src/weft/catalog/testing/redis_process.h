// A redis-server of the test's own, that it may kill and start again.
#ifndef WEFT_CATALOG_TESTING_REDIS_PROCESS_H_
#define WEFT_CATALOG_TESTING_REDIS_PROCESS_H_

#include <sys/types.h>

#include <string>

namespace weft::catalog::testing {

class RedisProcess {
 public:
  // On a free port of 127.0.0.1. `durable`: every write is on the disk before
  // it is answered. A failed test says what is missing.
  explicit RedisProcess(bool durable);
  ~RedisProcess();
  RedisProcess(const RedisProcess&) = delete;
  RedisProcess& operator=(const RedisProcess&) = delete;

  bool runs() const { return process_id_ != 0; }
  void Kill();
  // After Kill; on the same port, with what is on the disk.
  void Start();
  // Removes what is on the disk, so that Start begins with nothing.
  void Forget();
  void Signal(int signal_number) const;

  // "redis://127.0.0.1:PORT/PREFIX", a new prefix each time.
  std::string NewUrl();
  std::string Url(const std::string& prefix) const;
  int port() const { return port_; }

 private:
  bool TryStart();

  const bool durable_;
  std::string folder_;
  int port_ = 0;
  pid_t process_id_ = 0;
  int next_prefix_ = 0;
};

}  // namespace weft::catalog::testing

#endif  // WEFT_CATALOG_TESTING_REDIS_PROCESS_H_
