// weft synth: a checkpoint of any supported config with made-up weights
// (synthetic_values.h), for tests and measurements at real sizes.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "commands.h"
#include "console.h"
#include "option_checks.h"
#include "synthetic_values.h"
#include "text_file.h"
#include "weft/base/checked.h"
#include "weft/base/read_file.h"
#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/recipe/model_config.h"
#include "weft/recipe/recipe.h"

namespace weft::apps {
namespace {

namespace fs = std::filesystem;

// A directory without its final name; removed with all it holds unless it was
// given one.
class TemporaryFolder {
 public:
  static absl::StatusOr<std::unique_ptr<TemporaryFolder>> Create(
      const fs::path& final_path) {
    const fs::path path = absl::StrCat(final_path.string(), ".part-", getpid());
    std::error_code error;
    // What a killed process of our number left behind.
    fs::remove_all(path, error);
    if (!fs::create_directory(path, error)) {
      return absl::InvalidArgumentError(absl::StrCat("cannot create directory ",
                                                     final_path.string(), ": ",
                                                     error.message()));
    }
    return std::unique_ptr<TemporaryFolder>(new TemporaryFolder(path));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }

  absl::Status MoveTo(const fs::path& final_path) {
    // rename() replaces an empty directory and nothing else.
    if (rename(path_.c_str(), final_path.c_str()) == 0) {
      path_.clear();
      return absl::OkStatus();
    }
    return absl::AlreadyExistsError(absl::StrCat("cannot create directory ",
                                                 final_path.string(), ": ",
                                                 std::strerror(errno)));
  }

 private:
  explicit TemporaryFolder(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

absl::Status WriteText(const fs::path& path, const std::string& text) {
  std::ofstream stream(path, std::ios::binary);
  stream << text;
  stream.close();
  if (stream.good()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "cannot write ", path.string(), " of ", text.size(), " bytes"));
}

int64_t BytesOf(const tensor::TensorSpec& spec) {
  int64_t bytes = tensor::ItemBytes(spec.dtype);
  for (const int64_t extent : spec.shape) bytes *= extent;
  return bytes;
}

// Tensors in order, a new file whenever the next one would not fit. A tensor
// larger than a file gets one of its own.
std::vector<std::vector<tensor::TensorSpec>> SplitIntoFiles(
    const std::vector<tensor::TensorSpec>& tensors, int64_t max_file_bytes) {
  std::vector<std::vector<tensor::TensorSpec>> files(1);
  int64_t file_bytes = 0;
  for (const tensor::TensorSpec& spec : tensors) {
    const int64_t bytes = BytesOf(spec);
    if (!files.back().empty() && bytes > max_file_bytes - file_bytes) {
      files.emplace_back();
      file_bytes = 0;
    }
    files.back().push_back(spec);
    file_bytes += bytes;
  }
  return files;
}

absl::Status WriteFile(const fs::path& path,
                       const std::vector<tensor::TensorSpec>& tensors,
                       uint64_t seed) {
  std::vector<std::vector<std::byte>> values;
  std::vector<checkpoint::TensorToWrite> to_write;
  for (const tensor::TensorSpec& spec : tensors) {
    WEFT_ASSIGN_OR_RETURN(std::vector<std::byte> data,
                          SynthesizeTensor(spec, seed));
    values.push_back(std::move(data));
    to_write.push_back({spec, values.back()});
  }
  return checkpoint::WriteSafetensors(path.string(), to_write,
                                      {{"format", "pt"}}, /*overwrite=*/false);
}

// The total size, if it is a number at all: a config is outside input.
absl::StatusOr<int64_t> TotalBytes(
    const std::vector<tensor::TensorSpec>& tensors) {
  int64_t total = 0;
  for (const tensor::TensorSpec& spec : tensors) {
    std::optional<int64_t> bytes = tensor::ItemBytes(spec.dtype);
    for (const int64_t extent : spec.shape) {
      if (bytes.has_value()) bytes = base::CheckedMul(*bytes, extent);
    }
    if (bytes.has_value()) bytes = base::CheckedAdd(total, *bytes);
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", spec.name, "\" of shape ",
                       tensor::ShapeToString(spec.shape),
                       " makes the checkpoint larger than 64 bits can count"));
    }
    total = *bytes;
  }
  return total;
}

absl::Status WriteCheckpoint(
    const fs::path& folder,
    const std::vector<std::vector<tensor::TensorSpec>>& files,
    int64_t total_bytes, uint64_t seed) {
  if (files.size() == 1) {
    return WriteFile(folder / "model.safetensors", files[0], seed);
  }
  nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}}};
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string name =
        fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size());
    for (const tensor::TensorSpec& spec : files[i]) {
      index["weight_map"][spec.name] = name;
    }
    WEFT_RETURN_IF_ERROR(WriteFile(folder / name, files[i], seed));
  }
  return WriteText(folder / "model.safetensors.index.json",
                   index.dump(2) + "\n");
}

// An output that cannot be renamed to must be refused before hours of work.
absl::Status CheckOut(const fs::path& out) {
  std::error_code error;
  const bool exists = fs::exists(fs::symlink_status(out, error));
  if (!exists) return absl::OkStatus();
  if (fs::is_directory(fs::symlink_status(out, error)) &&
      fs::is_empty(out, error)) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(
      absl::StrCat("output ", out.string(),
                   " exists; remove it, or choose another directory"));
}

absl::Status Synth(const SynthArgs& args) {
  // "dir/" and "dir" are one name.
  fs::path out(args.out);
  if (!out.has_filename()) out = out.parent_path();
  WEFT_RETURN_IF_ERROR(CheckOut(out));
  std::error_code ignored;
  fs::path config_path(args.config);
  if (fs::is_directory(config_path, ignored)) config_path /= "config.json";
  WEFT_ASSIGN_OR_RETURN(const recipe::ModelConfig config,
                        recipe::LoadModelConfig(config_path.string()));
  WEFT_ASSIGN_OR_RETURN(const std::string config_json,
                        base::ReadFile(config_path.string()));
  WEFT_ASSIGN_OR_RETURN(const recipe::RecipeBook recipes,
                        recipe::RecipeBook::Load(args.recipes));
  WEFT_ASSIGN_OR_RETURN(const recipe::Recipe* const recipe,
                        recipes.Find(config.architecture));
  WEFT_ASSIGN_OR_RETURN(const std::vector<tensor::TensorSpec> tensors,
                        recipe->LogicalTensors(config));
  WEFT_ASSIGN_OR_RETURN(const int64_t total_bytes, TotalBytes(tensors));
  const auto files = SplitIntoFiles(tensors, args.max_file_bytes);

  WEFT_ASSIGN_OR_RETURN(const std::unique_ptr<TemporaryFolder> folder,
                        TemporaryFolder::Create(out));
  WEFT_RETURN_IF_ERROR(
      WriteCheckpoint(folder->path(), files, total_bytes, args.seed));
  WEFT_RETURN_IF_ERROR(WriteText(folder->path() / "config.json", config_json));
  WEFT_RETURN_IF_ERROR(folder->MoveTo(out));
  if (args.json) {
    PrintLine(nlohmann::json({{"directory", out.string()},
                              {"architecture", config.architecture},
                              {"seed", args.seed},
                              {"files", files.size()},
                              {"tensors", tensors.size()},
                              {"bytes", total_bytes}})
                  .dump());
  } else {
    PrintLine(absl::StrCat("wrote ", out.string(), ": ", config.architecture,
                           ", ", tensors.size(), " tensors in ", files.size(),
                           " files, ", HumanBytes(total_bytes)));
  }
  return absl::OkStatus();
}

}  // namespace

int RunSynth(const SynthArgs& args) {
  const absl::Status status = Synth(args);
  return status.ok() ? 0 : Fail("synth", status, args.json);
}

void AddSynth(CLI::App& app, int* exit_code) {
  auto args = std::make_shared<SynthArgs>();
  CLI::App* command = app.add_subcommand(
      "synth", "Write a checkpoint with made-up, reproducible weights");
  command->footer(
      "example: weft synth --config qwen3-4b/config.json --out qwen3-4b-synth");
  command
      ->add_option("--config", args->config,
                   "config.json or a directory that holds one")
      ->required();
  command
      ->add_option("--out", args->out,
                   "directory to create; may exist if it is empty")
      ->required();
  command->add_option("--seed", args->seed, "another seed, other weights")
      ->capture_default_str();
  command
      ->add_option("--max-file-bytes", args->max_file_bytes,
                   "begin another file beyond this size")
      ->check(AboveZero())
      ->capture_default_str();
  command->add_option("--recipes", args->recipes,
                      "file or folder of further recipes");
  command->add_flag("--json", args->json, "print one JSON object");
  command->callback([args, exit_code] { *exit_code = RunSynth(*args); });
}

}  // namespace weft::apps
