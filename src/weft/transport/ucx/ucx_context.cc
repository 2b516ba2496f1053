#include <ucs/debug/log_def.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "weft/transport/ucx/ucx_context_internal.h"

namespace weft::transport::ucx {
namespace {

constexpr const char* kTcpSegment = "256k";
static_assert(kTcpSegmentBytes == 256 << 10);
constexpr const char* kSharedMemorySegment = "64k";
static_assert(kSharedMemorySegmentBytes == 64 << 10);

std::pair<unsigned, unsigned> LoadedVersion() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucp_get_version(&major, &minor, &release);
  return {major, minor};
}

bool CanForbidEmulation() {
  return LoadedVersion() >= std::pair<unsigned, unsigned>(1, 21);
}

struct Wires {
  bool shared_memory = false;
  bool tcp = false;
};

struct Default {
  const char* environment_name;  // yields to this when it is set
  const char* name;
  const char* value;
};

// In PEER error mode UCX drops shared memory between local processes unless
// its error handling is on, and falls back to tcp. Its keepalive of 20 s is
// longer than a refit. A name that the loaded version does not know would make
// it warn, and UCX renamed one: its 1.13 finds the setting of both shared
// memory transports only under the name of their common base.
std::vector<Default> Defaults(const Wires& wires, bool emulation) {
  const auto [major, minor] = LoadedVersion();
  std::vector<Default> defaults = {
      {"UCX_KEEPALIVE_INTERVAL", "KEEPALIVE_INTERVAL", "1s"}};
  // The protocols before 1.16 end the process (assertion comp->count > 0 in
  // uct_iface.h) when a peer goes away while a message of several zero-copy
  // fragments is on its way over tcp: 4 of 10 runs of the conformance suite's
  // AnyOrderOfDestructionEnds, none of 10 with copies.
  if (major == 1 && minor < 16) {
    defaults.push_back({"UCX_ZCOPY_THRESH", "ZCOPY_THRESH", "inf"});
  }
  // Where no wire reads memory of GPUs (virtual memory, GPUs that do not reach
  // each other) UCX would move it by messages at some hundred MB/s, without a
  // word; and answer them from addresses that it does not check.
  if (!emulation && CanForbidEmulation()) {
    defaults.push_back(
        {"UCX_PROTO_EMULATION_ENABLE", "PROTO_EMULATION_ENABLE", "n"});
  }
  // UCX renamed its settings for ucp_config_modify: until 1.13 a transport's
  // own come without its name.
  const bool own_names = major == 1 && minor < 14;
  if (wires.tcp) {
    defaults.push_back({"UCX_TCP_TX_SEG_SIZE",
                        own_names ? "TX_SEG_SIZE" : "TCP_TX_SEG_SIZE",
                        kTcpSegment});
    defaults.push_back({"UCX_TCP_RX_SEG_SIZE",
                        own_names ? "RX_SEG_SIZE" : "TCP_RX_SEG_SIZE",
                        kTcpSegment});
  }
  if (!wires.shared_memory) return defaults;
  if (own_names) {
    defaults.push_back({"UCX_POSIX_ERROR_HANDLING", "MM_ERROR_HANDLING", "y"});
    defaults.push_back(
        {"UCX_POSIX_SEG_SIZE", "MM_SEG_SIZE", kSharedMemorySegment});
  } else {
    for (const auto& [environment, name] :
         {std::pair{"UCX_POSIX_ERROR_HANDLING", "POSIX_ERROR_HANDLING"},
          std::pair{"UCX_SYSV_ERROR_HANDLING", "SYSV_ERROR_HANDLING"}}) {
      defaults.push_back({environment, name, "y"});
    }
    for (const auto& [environment, name] :
         {std::pair{"UCX_POSIX_SEG_SIZE", "POSIX_SEG_SIZE"},
          std::pair{"UCX_SYSV_SEG_SIZE", "SYSV_SEG_SIZE"}}) {
      defaults.push_back({environment, name, kSharedMemorySegment});
    }
  }
  return defaults;
}

// Which wires the list of transports, "posix,tcp" or "^tcp", allows. A setting
// whose transport is not allowed warns.
Wires AllowedWires(const std::string& tls) {
  const bool negated = absl::StartsWith(tls, "^");
  const std::vector<std::string> listed =
      absl::StrSplit(negated ? tls.substr(1) : tls, ',');
  const auto lists = [&](const std::string& name) {
    return std::find(listed.begin(), listed.end(), name) != listed.end();
  };
  const bool lists_both = lists("shm") || lists("sm") || lists("mm");
  if (negated) {
    return {.shared_memory = !lists_both && !(lists("posix") && lists("sysv")),
            .tcp = !lists("tcp")};
  }
  return {.shared_memory =
              lists_both || lists("all") || lists("posix") || lists("sysv"),
          .tcp = lists("tcp") || lists("all")};
}

// All but shared memory: its queues are written by the senders themselves, and
// one that is killed between reserving an entry and filling it stops the owner
// for every other peer (docs/decisions/0009).
constexpr char kDefaultTransports[] = "^mm";

std::string TransportList(
    const std::vector<std::pair<std::string, std::string>>& settings) {
  const char* environment = std::getenv("UCX_TLS");
  std::string tls = environment == nullptr ? kDefaultTransports : environment;
  for (const auto& [name, value] : settings) {
    if (name == "TLS") tls = value;
  }
  return tls;
}

absl::Status Set(ucp_config_t* config, const std::string& name,
                 const std::string& value) {
  const ucs_status_t status =
      ucp_config_modify(config, name.c_str(), value.c_str());
  if (status == UCS_OK) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("ucx refuses the setting ", name, " = \"", value,
                   "\": ", ucs_status_string(status)));
}

absl::Status SetAll(
    ucp_config_t* config,
    const std::vector<std::pair<std::string, std::string>>& settings,
    bool emulation) {
  if (std::getenv("UCX_TLS") == nullptr) {
    if (absl::Status status = Set(config, "TLS", kDefaultTransports);
        !status.ok()) {
      return status;
    }
  }
  for (const Default& setting :
       Defaults(AllowedWires(TransportList(settings)), emulation)) {
    if (std::getenv(setting.environment_name) != nullptr) continue;
    if (absl::Status status = Set(config, setting.name, setting.value);
        !status.ok()) {
      return status;
    }
  }
  for (const auto& [name, value] : settings) {
    if (absl::Status status = Set(config, name, value); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

thread_local int quiet_depth = 0;

// UCX writes what it has to say to standard output, where a program expects the
// answers of this one. Not through the log: UCX also speaks as it dies.
ucs_log_func_rc_t TellStandardError(const char*, unsigned, const char*,
                                    ucs_log_level_t,
                                    const ucs_log_component_config_t*,
                                    const char* format, va_list arguments) {
  if (quiet_depth > 0) return UCS_LOG_FUNC_RC_STOP;
  char text[1024];
  std::vsnprintf(text, sizeof(text), format, arguments);
  std::fprintf(stderr, "ucx: %s\n", text);
  return UCS_LOG_FUNC_RC_STOP;
}

// Once a process; where UCX was told where to write, it does.
void KeepStandardOutputClean() {
  static const bool done = [] {
    if (std::getenv("UCX_LOG_FILE") == nullptr) {
      ucs_log_push_handler(TellStandardError);
    }
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

QuietUcx::QuietUcx() { ++quiet_depth; }
QuietUcx::~QuietUcx() { --quiet_depth; }

absl::Status ToStatus(ucs_status_t status, std::string_view what) {
  if (status == UCS_OK) return absl::OkStatus();
  const std::string message =
      absl::StrCat(std::string(what), ": ", ucs_status_string(status));
  switch (status) {
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_NO_RESOURCE:
    case UCS_ERR_EXCEEDS_LIMIT:
      return absl::ResourceExhaustedError(message);
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
      return absl::InvalidArgumentError(message);
    case UCS_ERR_UNSUPPORTED:
    case UCS_ERR_NOT_IMPLEMENTED:
      return absl::UnimplementedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::StatusOr<std::shared_ptr<Context>> Context::Make(
    const std::vector<std::pair<std::string, std::string>>& settings,
    bool emulation) {
  KeepStandardOutputClean();
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return ToStatus(status, "reading the ucx settings");
  const absl::Status set = SetAll(config, settings, emulation);
  if (!set.ok()) {
    ucp_config_release(config);
    return set;
  }
  ucp_params_t params = {};
  params.field_mask =
      UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_RMA | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 1;
  ucp_context_h context = nullptr;
  status = ucp_init(&params, config, &context);
  ucp_config_release(config);
  if (status != UCS_OK) {
    return ToStatus(status, absl::StrCat("starting ucx ", Version()));
  }
  return std::shared_ptr<Context>(new Context(context));
}

Context::~Context() { ucp_cleanup(context_); }

absl::Status Context::CheckDeviceMemory() const {
  constexpr char kRemedy[] =
      "install one that does (pip install libucx-cu13, 1.22) and put its "
      "folder "
      "libucx/lib first on LD_LIBRARY_PATH";
  ucp_context_attr_t attributes = {};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  const ucs_status_t status = ucp_context_query(context_, &attributes);
  if (status != UCS_OK) return ToStatus(status, "asking for kinds of memory");
  if ((attributes.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) == 0) {
    return absl::UnimplementedError(absl::StrCat(
        "ucx ", Version(), " does not reach memory of GPUs; ", kRemedy));
  }
  if (!CanForbidEmulation()) {
    return absl::UnimplementedError(
        absl::StrCat("ucx ", Version(),
                     " would move memory of GPUs by messages where no "
                     "wire reads it, without a word; ",
                     kRemedy));
  }
  return absl::OkStatus();
}

std::string Context::Version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucp_get_version(&major, &minor, &release);
  return absl::StrCat(major, ".", minor, ".", release);
}

}  // namespace weft::transport::ucx
