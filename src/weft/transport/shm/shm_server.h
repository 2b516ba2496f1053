// The passive side: answers peers that want to map or read regions.
#ifndef WEFT_TRANSPORT_SHM_SHM_SERVER_H_
#define WEFT_TRANSPORT_SHM_SHM_SERVER_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "weft/memory/buffer.h"
#include "weft/transport/region_table.h"
#include "weft/transport/shm/shm_socket.h"

namespace weft::transport::shm {

// Regions that one endpoint can hold: the words of its generation table.
inline constexpr int64_t kMaxRegions = 65536;

// The regions of one endpoint, with a shared table of generation words that
// peers read without asking: word `slot` holds the generation of the region in
// that slot, 0 when it is free. Outlives the server while regions exist.
class SharedRegions {
 public:
  static absl::StatusOr<std::shared_ptr<SharedRegions>> Make();

  // kResourceExhausted beyond kMaxRegions.
  absl::StatusOr<RegisteredRegion> Add(absl::Span<std::byte> memory,
                                       const memory::Buffer* buffer);
  void Remove(const RegisteredRegion& region);

  uint64_t instance() const { return instance_; }
  const RegionTable& table() const { return table_; }
  int words_fd() const { return words_->fd(); }

 private:
  explicit SharedRegions(std::unique_ptr<memory::Buffer> words);
  std::atomic_ref<uint64_t> Word(uint64_t slot) const;

  const uint64_t instance_;
  const std::unique_ptr<memory::Buffer> words_;
  RegionTable table_;
};

// Runs one thread from Start until it is destroyed; then every connected peer
// sees its socket hang up.
class Server {
 public:
  // Listens on the abstract socket `name`.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const std::string& name, std::shared_ptr<SharedRegions> regions);
  ~Server();

 private:
  Server(Fd listener, Fd stop_event, std::shared_ptr<SharedRegions> regions);
  void Serve();
  void Accept();
  // False when the client must be dropped.
  bool AnswerClient(int socket);
  absl::Status AnswerImport(int socket, const Request& request);

  Fd listener_;
  Fd stop_event_;
  std::shared_ptr<SharedRegions> regions_;
  std::map<int, Fd> clients_;  // by descriptor; the thread's own
  std::thread thread_;
};

}  // namespace weft::transport::shm

#endif  // WEFT_TRANSPORT_SHM_SHM_SERVER_H_
