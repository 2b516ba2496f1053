#include <filesystem>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/read_file.h"
#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/checkpoint/strict_json_internal.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr char kSingleName[] = "model.safetensors";
constexpr char kIndexName[] = "model.safetensors.index.json";

using OpenFiles = std::map<std::string, std::shared_ptr<const SafetensorsFile>>;

struct Index {
  std::map<std::string, std::string> file_of_tensor;
};

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Everything that Open can be given, resolved to one file: an index (*.json)
// or a safetensors file.
absl::StatusOr<fs::path> Resolve(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    if (Exists(path)) return fs::path(path);
    return absl::NotFoundError(absl::StrCat("no file or directory ", path));
  }
  const fs::path folder(path);
  // The order in which Hugging Face's loader looks.
  for (const char* name : {kSingleName, kIndexName}) {
    if (Exists(folder / name)) return folder / name;
  }
  return absl::NotFoundError(absl::StrCat("directory ", path, " holds neither ",
                                          kSingleName, " nor ", kIndexName));
}

absl::StatusOr<Index> ReadIndex(const fs::path& path) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path.string()));
  // Root, "metadata" and whatever a writer nests in it.
  absl::StatusOr<nlohmann::json> root = ParseStrictJson(text, /*max_depth=*/16);
  if (!root.ok()) return base::Annotate(root.status(), path.string());
  if (!root->is_object() || !root->contains("weight_map") ||
      !(*root)["weight_map"].is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " has no object \"weight_map\""));
  }
  Index index;
  base::FaultList faults;
  for (const auto& [tensor, file] : (*root)["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (name.empty() || name == "." || name == ".." ||
        name.find('/') != std::string::npos) {
      faults.Add(absl::StrCat(path.string(), " places tensor \"", tensor,
                              "\" in ", file.dump(),
                              ", which is no name of a file beside it"));
      continue;
    }
    index.file_of_tensor[tensor] = name;
  }
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  return index;
}

// Opens every file that the index names; a fault for each that does not open.
OpenFiles OpenAll(const fs::path& folder, const Index& index,
                  base::FaultList& faults) {
  OpenFiles files;
  std::set<std::string> tried;
  for (const auto& [tensor, file_name] : index.file_of_tensor) {
    if (!tried.insert(file_name).second) continue;
    absl::StatusOr<std::shared_ptr<const SafetensorsFile>> file =
        SafetensorsFile::Open((folder / file_name).string());
    if (file.ok()) {
      files[file_name] = *std::move(file);
    } else {
      faults.Add(absl::StrCat("the index names ", file_name, ": ",
                              file.status().message()));
    }
  }
  return files;
}

// Each tensor lies in exactly the file where the index places it.
void CheckIndex(const Index& index, const OpenFiles& files,
                base::FaultList& faults) {
  std::map<std::string, std::set<std::string>> found_in;
  for (const auto& [file_name, file] : files) {
    for (const TensorEntry& entry : file->header().tensors) {
      found_in[entry.spec.name].insert(file_name);
    }
  }
  for (const auto& [tensor, file_name] : index.file_of_tensor) {
    if (files.contains(file_name) && !found_in[tensor].contains(file_name)) {
      faults.Add(absl::StrCat("tensor \"", tensor, "\" is not in ", file_name,
                              ", where the index places it"));
    }
  }
  for (const auto& [tensor, file_names] : found_in) {
    const auto placed = index.file_of_tensor.find(tensor);
    for (const std::string& file_name : file_names) {
      if (placed == index.file_of_tensor.end()) {
        faults.Add(absl::StrCat("tensor \"", tensor, "\" of ", file_name,
                                " is not in the index"));
      } else if (placed->second != file_name) {
        faults.Add(absl::StrCat("tensor \"", tensor, "\" is in ", file_name,
                                ", but the index places it in ",
                                placed->second));
      }
    }
  }
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& path) {
  WEFT_ASSIGN_OR_RETURN(const fs::path file_path, Resolve(path));
  OpenFiles files;
  if (file_path.extension() == ".json") {
    WEFT_ASSIGN_OR_RETURN(const Index index, ReadIndex(file_path));
    base::FaultList faults;
    files = OpenAll(file_path.parent_path(), index, faults);
    CheckIndex(index, files, faults);
    WEFT_RETURN_IF_ERROR(
        base::Annotate(faults.ToStatus(absl::StatusCode::kInvalidArgument),
                       file_path.string()));
  } else {
    WEFT_ASSIGN_OR_RETURN(files[file_path.filename().string()],
                          SafetensorsFile::Open(file_path.string()));
  }
  Checkpoint checkpoint;
  for (const auto& [file_name, file] : files) {
    for (const TensorEntry& entry : file->header().tensors) {
      checkpoint.total_bytes_ += entry.end_bytes - entry.begin_bytes;
      checkpoint.located_[entry.spec.name] = {file, entry, nullptr};
    }
  }
  checkpoint.ListTensors();
  return checkpoint;
}

void Checkpoint::ListTensors() {
  tensors_.clear();
  for (const auto& [name, located] : located_) {
    tensors_.push_back(located.entry.spec);
  }
}

void Checkpoint::Substitute(const tensor::TensorSpec& spec,
                            const std::vector<std::string>& replaced,
                            MakeEntry make) {
  for (const std::string& name : replaced) located_.erase(name);
  located_[spec.name] = {nullptr, {spec, 0, 0}, std::move(make)};
  ListTensors();
}

absl::StatusOr<const Checkpoint::Located*> Checkpoint::Find(
    const std::string& name) const {
  const auto found = located_.find(name);
  if (found == located_.end()) {
    return absl::NotFoundError(
        absl::StrCat("checkpoint has no tensor \"", name, "\""));
  }
  return &found->second;
}

bool Checkpoint::IsMade(const std::string& name) const {
  const absl::StatusOr<const Located*> located = Find(name);
  return located.ok() && (*located)->file == nullptr;
}

absl::StatusOr<absl::Span<const std::byte>> Checkpoint::Data(
    const std::string& name) const {
  WEFT_ASSIGN_OR_RETURN(const Located* const located, Find(name));
  if (located->file != nullptr) return located->file->Data(located->entry);
  return absl::UnimplementedError(absl::StrCat(
      "tensor \"", name, "\" is made entry by entry, not as a whole"));
}

absl::StatusOr<Checkpoint::Entry> Checkpoint::EntryOf(const std::string& name,
                                                      int64_t index) const {
  WEFT_ASSIGN_OR_RETURN(const Located* const located, Find(name));
  const tensor::Shape& shape = located->entry.spec.shape;
  if (shape.empty() || index < 0 || index >= shape[0]) {
    return absl::OutOfRangeError(absl::StrCat("tensor \"", name, "\" of shape ",
                                              tensor::ShapeToString(shape),
                                              " has no entry ", index));
  }
  Entry entry;
  if (located->file == nullptr) {
    entry.made = located->make(index);
    entry.bytes = entry.made;
    return entry;
  }
  const absl::Span<const std::byte> all = located->file->Data(located->entry);
  const auto entry_bytes = all.size() / static_cast<size_t>(shape[0]);
  entry.bytes =
      all.subspan(static_cast<size_t>(index) * entry_bytes, entry_bytes);
  return entry;
}

absl::StatusOr<tensor::TensorSpec> Checkpoint::Spec(
    const std::string& name) const {
  WEFT_ASSIGN_OR_RETURN(const Located* const located, Find(name));
  return located->entry.spec;
}

}  // namespace weft::checkpoint
