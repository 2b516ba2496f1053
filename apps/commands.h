// The commands of `weft`. Add<Command> declares one to CLI11; when it is
// given, its callback runs Run<Command> and stores what that returned in
// `*exit_code`: 0 done, 1 refused or failed (one sentence on standard error).
// Usage errors are CLI11's. `exit_code` must outlive the parsing.
#ifndef WEFT_APPS_COMMANDS_H_
#define WEFT_APPS_COMMANDS_H_

#include <cstdint>
#include <string>

namespace CLI {
class App;
}

namespace weft::apps {

// weft shard: what one rank of a layout holds, cut from a checkpoint by a
// plain gather.
struct ShardArgs {
  std::string checkpoint;  // directory or one .safetensors
  std::string layout;      // "megatron:tp=2"
  int64_t rank = 0;
  int64_t step = 0;  // stand-in optimiser steps, see stand_in_step.h
  std::string out;
  bool overwrite = false;
  std::string recipes;         // extra recipe file or directory; empty for none
  std::string mxfp4 = "bf16";  // or "blocks": how to read such experts
  bool json = false;
};
int RunShard(const ShardArgs& args);
void AddShard(CLI::App& app, int* exit_code);

// weft verify: compares every byte of a file with what `shard` would write.
struct VerifyArgs {
  std::string file;
  std::string checkpoint;
  std::string layout;
  int64_t rank = 0;
  int64_t step = 0;
  std::string recipes;
  std::string mxfp4 = "bf16";
  bool json = false;
};
int RunVerify(const VerifyArgs& args);
void AddVerify(CLI::App& app, int* exit_code);

// weft synth: a checkpoint of any supported config with made-up values.
struct SynthArgs {
  std::string config;  // config.json, or a directory that holds one
  std::string out;     // a directory that does not exist yet, or is empty
  uint64_t seed = 0;
  int64_t max_file_bytes = int64_t{2} << 30;
  std::string recipes;
  bool json = false;
};
int RunSynth(const SynthArgs& args);
void AddSynth(CLI::App& app, int* exit_code);

// The commands of a session and their tools; each is described by --help.
void AddDemo(CLI::App& app, int* exit_code);
void AddChaos(CLI::App& app, int* exit_code);
void AddDoctor(CLI::App& app, int* exit_code);
void AddSelftest(CLI::App& app, int* exit_code);
void AddCatalog(CLI::App& app, int* exit_code);
void AddPublish(CLI::App& app, int* exit_code);
void AddPull(CLI::App& app, int* exit_code);
void AddPlan(CLI::App& app, int* exit_code);
void AddBench(CLI::App& app, int* exit_code);
void AddVersions(CLI::App& app, int* exit_code);
void AddWorkers(CLI::App& app, int* exit_code);
void AddSources(CLI::App& app, int* exit_code);
void AddStatus(CLI::App& app, int* exit_code);
void AddEvents(CLI::App& app, int* exit_code);

}  // namespace weft::apps

#endif  // WEFT_APPS_COMMANDS_H_
