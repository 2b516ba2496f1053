#include <algorithm>
#include <filesystem>
#include <memory>
#include <mutex>
#include <set>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "weft/base/read_file.h"
#include "weft/base/status.h"
#include "weft/recipe/data_recipe.h"
#include "weft/recipe/embedded_recipes.h"
#include "weft/recipe/recipe.h"

namespace weft::recipe {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::string> ReadRecipe(const fs::path& path) {
  absl::StatusOr<std::string> text = base::ReadFile(path.string());
  if (!text.ok()) return base::Annotate(text.status(), "recipe");
  return text;
}

// `path` itself, or the YAML files of the directory `path` in order of name.
// Folders in it are for includes.
absl::StatusOr<std::vector<fs::path>> RecipeFiles(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return std::vector<fs::path>{path};
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(path, error), end; entry != end && !error;
       entry.increment(error)) {
    const fs::path extension = entry->path().extension();
    if (extension == ".yaml" || extension == ".yml") {
      files.push_back(entry->path());
    }
  }
  if (error) {
    return absl::NotFoundError(absl::StrCat(
        "cannot list recipes in \"", path.string(), "\": ", error.message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<std::shared_ptr<const Recipe>> ParseRecipeFile(
    const fs::path& path) {
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadRecipe(path));
  // A file of the user's before one of Weft's.
  const auto include =
      [&](const std::string& name) -> absl::StatusOr<std::string> {
    absl::StatusOr<std::string> own = ReadRecipe(path.parent_path() / name);
    if (own.ok()) return own;
    return ReadEmbeddedRecipe(name);
  };
  return ParseRecipeWithIncludes(text, path.string(), include);
}

// The words of "KEY: WORD" or "KEY: [WORD, WORD]" at the beginning of a line.
std::vector<std::string> WordsAfter(const std::string& key,
                                    std::string_view text) {
  const std::vector<std::string> lines =
      absl::StrSplit(std::string(text), '\n');
  for (const std::string& line : lines) {
    if (line.compare(0, key.size(), key) != 0) continue;
    return absl::StrSplit(line.substr(key.size()), absl::ByAnyChar("[], "),
                          absl::SkipEmpty());
  }
  return {};
}

}  // namespace

absl::StatusOr<std::string> ReadEmbeddedRecipe(const std::string& name) {
  for (const EmbeddedRecipe& recipe : EmbeddedRecipes()) {
    if (recipe.name == name) return std::string(recipe.text);
  }
  return absl::NotFoundError(
      absl::StrCat("there is no recipe file \"", name, "\""));
}

class RecipeBook::Entry {
 public:
  explicit Entry(std::shared_ptr<const Recipe> recipe)
      : family_(recipe->family()),
        architectures_(recipe->architectures()),
        recipe_(std::move(recipe)) {}
  // Parsing all embedded files takes longer than what most programs do with
  // one of them. Their heads are one line each (recipe_file_test.cc).
  explicit Entry(const EmbeddedRecipe& embedded)
      : embedded_(&embedded),
        architectures_(WordsAfter("architectures:", embedded.text)) {
    const std::vector<std::string> family =
        WordsAfter("family:", embedded.text);
    if (!family.empty()) family_ = family.front();
  }

  const std::string& family() const { return family_; }
  const std::vector<std::string>& architectures() const {
    return architectures_;
  }
  absl::StatusOr<const Recipe*> recipe() {
    const std::lock_guard lock(mutex_);
    if (recipe_ == nullptr) {
      WEFT_ASSIGN_OR_RETURN(recipe_,
                            ParseRecipe(embedded_->text, embedded_->name));
    }
    return recipe_.get();
  }

 private:
  const EmbeddedRecipe* const embedded_ = nullptr;
  std::string family_;
  std::vector<std::string> architectures_;
  std::mutex mutex_;
  std::shared_ptr<const Recipe> recipe_;  // guarded by mutex_ if embedded
};

absl::StatusOr<RecipeBook> RecipeBook::Load(const std::string& extra_path) {
  RecipeBook book;
  const auto replace = [&](std::shared_ptr<Entry> entry) {
    std::erase_if(book.entries_, [&](const std::shared_ptr<Entry>& old) {
      return old->family() == entry->family();
    });
    book.entries_.push_back(std::move(entry));
  };
  for (const EmbeddedRecipe& embedded : EmbeddedRecipes()) {
    // Files in folders are for includes.
    if (embedded.name.find('/') != std::string_view::npos) continue;
    replace(std::make_shared<Entry>(embedded));
  }
  if (extra_path.empty()) return book;
  WEFT_ASSIGN_OR_RETURN(const std::vector<fs::path> files,
                        RecipeFiles(extra_path));
  for (const fs::path& file : files) {
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Recipe> recipe,
                          ParseRecipeFile(file));
    replace(std::make_shared<Entry>(std::move(recipe)));
  }
  return book;
}

absl::StatusOr<const Recipe*> RecipeBook::Find(
    std::string_view architecture) const {
  // The last one loaded wins.
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    for (const std::string& name : (*entry)->architectures()) {
      if (name == architecture) return (*entry)->recipe();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("architecture \"", std::string(architecture),
                   "\" has no recipe; supported are ",
                   absl::StrJoin(Architectures(), ", ")));
}

std::vector<std::string> RecipeBook::Architectures() const {
  std::set<std::string> names;
  for (const std::shared_ptr<Entry>& entry : entries_) {
    names.insert(entry->architectures().begin(), entry->architectures().end());
  }
  return {names.begin(), names.end()};
}

}  // namespace weft::recipe
