#include "weft/transport/testing/test_peer.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

extern char** environ;

namespace weft::transport {

absl::StatusOr<std::unique_ptr<TestPeer>> TestPeer::Start(
    const std::string& transport_name, const std::string& memory_kind,
    int64_t bytes, uint64_t seed) {
  std::unique_ptr<TestPeer> peer(new TestPeer);
  int in[2];
  int out[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("pipe: ", std::strerror(errno)));
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  // Beside the test, as in a bundle, else where the build put it.
  std::error_code error_code;
  const std::filesystem::path built = WEFT_TRANSPORT_TEST_PEER;
  const std::filesystem::path beside =
      std::filesystem::read_symlink("/proc/self/exe", error_code)
          .parent_path() /
      built.filename();
  std::string program =
      std::filesystem::exists(beside, error_code) ? beside : built;
  if (transport_name == "nixl") program += "_nixl";
  std::vector<std::string> words = {program, transport_name, memory_kind,
                                    absl::StrCat(bytes), absl::StrCat(seed)};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int error = posix_spawn(&peer->pid_, argv[0], &actions, nullptr,
                                argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  peer->to_ = fdopen(in[1], "w");
  peer->from_ = fdopen(out[0], "r");
  if (error != 0) {
    peer->pid_ = -1;
    return absl::InternalError(
        absl::StrCat("cannot run ", words[0], ": ", std::strerror(error)));
  }
  const std::vector<std::string> printed =
      absl::StrSplit(peer->ReadLine(), ' ');
  if (printed.size() != 2) {
    return absl::InternalError("the test peer did not start");
  }
  peer->address_ = absl::HexStringToBytes(printed[0]);
  peer->key_ = absl::HexStringToBytes(printed[1]);
  return peer;
}

TestPeer::~TestPeer() {
  Kill();
  if (to_ != nullptr) std::fclose(to_);
  if (from_ != nullptr) std::fclose(from_);
}

std::string TestPeer::ReadLine() {
  std::string line;
  for (int c = std::fgetc(from_); c != EOF && c != '\n';
       c = std::fgetc(from_)) {
    line.push_back(static_cast<char>(c));
  }
  return line;
}

std::string TestPeer::Ask(const std::string& command) {
  std::fprintf(to_, "%s\n", command.c_str());
  std::fflush(to_);
  return ReadLine();
}

void TestPeer::Signal(int signal) {
  kill(pid_, signal);
  // Stopping takes a moment; the process may answer until then.
  if (signal == SIGSTOP) waitpid(pid_, nullptr, WUNTRACED);
}

void TestPeer::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace weft::transport
