#include "weft/catalog/testing/redis_process.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"

namespace weft::catalog::testing {
namespace {

int FreePort() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  const bool bound =
      bind(listener, raw, size) == 0 && getsockname(listener, raw, &size) == 0;
  close(listener);
  return bound ? ntohs(address.sin_port) : 0;
}

// Reads until redis-server says that it serves; false if it ends before.
bool AwaitReady(int output) {
  std::string text;
  char part[512];
  while (text.find("Ready to accept connections") == std::string::npos) {
    const ssize_t count = read(output, part, sizeof(part));
    if (count <= 0) return false;
    text.append(part, static_cast<size_t>(count));
  }
  return true;
}

}  // namespace

RedisProcess::RedisProcess(bool durable) : durable_(durable) {
  std::string folder =
      (std::filesystem::temp_directory_path() / "weft-redis-XXXXXX").string();
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  folder_ = folder;
  // Another program may take the port in between.
  for (int attempt = 0; attempt < 10 && !runs(); ++attempt) {
    port_ = FreePort();
    if (!TryStart()) port_ = 0;
  }
  EXPECT_TRUE(runs()) << "redis-server does not start: install it with "
                         "scripts/setup.sh --all";
}

RedisProcess::~RedisProcess() {
  Kill();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void RedisProcess::Kill() {
  if (!runs()) return;
  kill(process_id_, SIGKILL);
  waitpid(process_id_, nullptr, 0);
  process_id_ = 0;
}

void RedisProcess::Start() { EXPECT_TRUE(TryStart()); }

void RedisProcess::Forget() {
  std::filesystem::remove_all(folder_);
  std::filesystem::create_directory(folder_);
}

void RedisProcess::Signal(int signal_number) const {
  kill(process_id_, signal_number);
}

std::string RedisProcess::NewUrl() {
  return Url(absl::StrCat("test", ++next_prefix_));
}

std::string RedisProcess::Url(const std::string& prefix) const {
  return absl::StrCat("redis://127.0.0.1:", port_, "/", prefix);
}

bool RedisProcess::TryStart() {
  // It does not outlive a test that crashes.
  std::vector<std::string> words = {"setpriv",       "--pdeathsig",
                                    "KILL",          "redis-server",
                                    "--port",        absl::StrCat(port_),
                                    "--bind",        "127.0.0.1",
                                    "--dir",         folder_,
                                    "--save",        "",
                                    "--appendonly",  durable_ ? "yes" : "no",
                                    "--appendfsync", "always"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  int output[2];
  if (pipe(output) != 0) return false;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output[1], 1);
  posix_spawn_file_actions_addclose(&actions, output[0]);
  posix_spawn_file_actions_addclose(&actions, output[1]);
  const bool spawned = posix_spawnp(&process_id_, "setpriv", &actions, nullptr,
                                    arguments.data(), environ) == 0;
  posix_spawn_file_actions_destroy(&actions);
  close(output[1]);
  if (!spawned) process_id_ = 0;
  const bool ready = spawned && AwaitReady(output[0]);
  // It goes on writing there: nobody reads, and it ignores the broken pipe.
  close(output[0]);
  if (spawned && !ready) Kill();
  return ready;
}

}  // namespace weft::catalog::testing
