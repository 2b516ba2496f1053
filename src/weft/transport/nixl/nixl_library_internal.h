// NIXL's C library as it was found on this machine: its functions by name.
//
// The declarations are Weft's own, of the few functions that it calls; the
// library has no header to install. A handle is opaque here.
#ifndef WEFT_TRANSPORT_NIXL_NIXL_LIBRARY_INTERNAL_H_
#define WEFT_TRANSPORT_NIXL_NIXL_LIBRARY_INTERNAL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::transport::nixl {

using Handle = void*;
using NixlStatus = int;  // 0 done, 1 in progress, negative: failed

inline constexpr NixlStatus kDone = 0;
inline constexpr NixlStatus kInProgress = 1;
// Not NIXL's: there is no agent any more.
inline constexpr NixlStatus kShut = -1000;

enum class MemoryType : int { kHost = 0, kDevice = 1 };
enum class Operation : int { kRead = 0, kWrite = 1 };

// The layout of nixl_capi_agent_config_t in 1.5.1. What Weft leaves zero here
// has moved since, the rest has not.
struct AgentConfig {
  bool progress_thread = false;
  bool listen_thread = false;
  int32_t listen_port = 0;
  int32_t thread_sync = 0;
  uint32_t workers = 0;
  uint64_t progress_delay_us = 0;
  uint64_t listen_delay_us = 0;
  bool telemetry = false;
};

// Every function that Weft calls, X(result, name, arguments).
#define WEFT_NIXL_FUNCTIONS(X)                                                \
  X(NixlStatus, create_configured_agent,                                      \
    (const char* name, const AgentConfig* config, Handle* agent))             \
  X(NixlStatus, destroy_agent, (Handle agent))                                \
  X(NixlStatus, get_plugin_params,                                            \
    (Handle agent, const char* plugin, Handle* memory_types, Handle* params)) \
  X(NixlStatus, destroy_mem_list, (Handle list))                              \
  X(NixlStatus, destroy_params, (Handle params))                              \
  X(NixlStatus, params_add,                                                   \
    (Handle params, const char* name, const char* value))                     \
  X(NixlStatus, create_backend,                                               \
    (Handle agent, const char* plugin, Handle params, Handle* backend))       \
  X(NixlStatus, destroy_backend, (Handle backend))                            \
  X(NixlStatus, get_local_md, (Handle agent, void** data, size_t* bytes))     \
  X(NixlStatus, get_local_partial_md,                                         \
    (Handle agent, Handle list, void** data, size_t* bytes, Handle args))     \
  X(NixlStatus, load_remote_md,                                               \
    (Handle agent, const void* data, size_t bytes, char** remote))            \
  X(NixlStatus, invalidate_remote_md, (Handle agent, const char* remote))     \
  X(NixlStatus, register_mem, (Handle agent, Handle list, Handle args))       \
  X(NixlStatus, deregister_mem, (Handle agent, Handle list, Handle args))     \
  X(NixlStatus, create_reg_dlist, (int type, Handle* list, bool sorted))      \
  X(NixlStatus, destroy_reg_dlist, (Handle list))                             \
  X(NixlStatus, reg_dlist_add_desc,                                           \
    (Handle list, uintptr_t address, size_t bytes, uint64_t device,           \
     const void* metadata, size_t metadata_bytes))                            \
  X(NixlStatus, create_xfer_dlist, (int type, Handle* list, bool sorted))     \
  X(NixlStatus, destroy_xfer_dlist, (Handle list))                            \
  X(NixlStatus, xfer_dlist_add_desc,                                          \
    (Handle list, uintptr_t address, size_t bytes, uint64_t device))          \
  X(NixlStatus, create_xfer_req,                                              \
    (Handle agent, int operation, Handle local, Handle remote,                \
     const char* remote_agent, Handle* request, Handle args))                 \
  X(NixlStatus, post_xfer_req, (Handle agent, Handle request, Handle args))   \
  X(NixlStatus, get_xfer_status, (Handle agent, Handle request))              \
  X(NixlStatus, release_xfer_req, (Handle agent, Handle request))             \
  X(NixlStatus, destroy_xfer_req, (Handle request))                           \
  X(NixlStatus, gen_notif,                                                    \
    (Handle agent, const char* remote, const void* data, size_t bytes,        \
     Handle args))                                                            \
  X(NixlStatus, get_notifs, (Handle agent, Handle map, Handle args))          \
  X(NixlStatus, create_notif_map, (Handle * map))                             \
  X(NixlStatus, destroy_notif_map, (Handle map))                              \
  X(NixlStatus, notif_map_size, (Handle map, size_t * count))                 \
  X(NixlStatus, notif_map_get_agent_at,                                       \
    (Handle map, size_t index, const char** agent))                           \
  X(NixlStatus, notif_map_get_notifs_size,                                    \
    (Handle map, const char* agent, size_t* count))                           \
  X(NixlStatus, notif_map_get_notif,                                          \
    (Handle map, const char* agent, size_t index, const void** data,          \
     size_t* bytes))

// Loaded once and never unloaded: NIXL and the UCX in it keep threads and
// handlers that outlive their last user.
class Library {
 public:
  // `path` as in NixlOptions::library.
  static absl::StatusOr<std::shared_ptr<const Library>> Load(
      const std::string& path);

  const std::string& path() const { return path_; }
  const std::string& version() const { return version_; }
  // "nixl 1.5.1 (/path/libnixl_capi.so)".
  std::string Describe() const;
  // Frees bytes that NIXL returned: with the allocator that it sees, which is
  // not always the one of this program.
  void Free(void* bytes) const { free_(bytes); }

#define WEFT_NIXL_DECLARE(result, name, arguments) result(*name) arguments;
  WEFT_NIXL_FUNCTIONS(WEFT_NIXL_DECLARE)
#undef WEFT_NIXL_DECLARE

 private:
  Library() = default;
  absl::Status Resolve(Handle handle);

  std::string path_;
  std::string version_;
  void (*free_)(void*) = nullptr;
};

// The libnixl_capi.so that Load would take; kNotFound says what to install.
absl::StatusOr<std::string> FindLibrary(const std::string& path);
// See NixlEnvironment.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Environment(
    const std::string& path, const std::string& links);
// The version of the Python package that holds `library`, from its metadata;
// empty when it lies in none.
std::string PackageVersion(const std::string& library);
// The libucp that the package of `library` brings; empty when it brings none.
std::string BundledUcx(const std::string& library);
// Whether Weft's tests have run with this version.
bool IsTested(const std::string& version);

}  // namespace weft::transport::nixl

#endif  // WEFT_TRANSPORT_NIXL_NIXL_LIBRARY_INTERNAL_H_
