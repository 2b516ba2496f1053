#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "weft/base/status.h"
#include "weft/recipe/data_recipe.h"
#include "weft/recipe/embedded_recipes.h"
#include "weft/recipe/recipe.h"

namespace weft::recipe {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::string> ReadFile(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream),
                   std::istreambuf_iterator<char>()};
  if (!stream.is_open() || stream.bad()) {
    return absl::NotFoundError(
        absl::StrCat("cannot read recipe \"", path.string(), "\""));
  }
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
  WEFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  // A file of the user's before one of Weft's.
  const auto include =
      [&](const std::string& name) -> absl::StatusOr<std::string> {
    absl::StatusOr<std::string> own = ReadFile(path.parent_path() / name);
    if (own.ok()) return own;
    return ReadEmbeddedRecipe(name);
  };
  return ParseRecipeWithIncludes(text, path.string(), include);
}

void Replace(std::shared_ptr<const Recipe> recipe,
             std::vector<std::shared_ptr<const Recipe>>& recipes) {
  std::erase_if(recipes, [&](const std::shared_ptr<const Recipe>& old) {
    return old->family() == recipe->family();
  });
  recipes.push_back(std::move(recipe));
}

}  // namespace

absl::StatusOr<std::string> ReadEmbeddedRecipe(const std::string& name) {
  for (const EmbeddedRecipe& recipe : EmbeddedRecipes()) {
    if (recipe.name == name) return std::string(recipe.text);
  }
  return absl::NotFoundError(
      absl::StrCat("there is no recipe file \"", name, "\""));
}

absl::StatusOr<RecipeBook> RecipeBook::Load(const std::string& extra_path) {
  RecipeBook book;
  for (const EmbeddedRecipe& embedded : EmbeddedRecipes()) {
    // Files in folders are for includes.
    if (embedded.name.find('/') != std::string_view::npos) continue;
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Recipe> recipe,
                          ParseRecipe(embedded.text, embedded.name));
    Replace(std::move(recipe), book.recipes_);
  }
  if (extra_path.empty()) return book;
  WEFT_ASSIGN_OR_RETURN(const std::vector<fs::path> files,
                        RecipeFiles(extra_path));
  for (const fs::path& file : files) {
    WEFT_ASSIGN_OR_RETURN(std::shared_ptr<const Recipe> recipe,
                          ParseRecipeFile(file));
    Replace(std::move(recipe), book.recipes_);
  }
  return book;
}

absl::StatusOr<const Recipe*> RecipeBook::Find(
    std::string_view architecture) const {
  // The last one loaded wins.
  for (auto recipe = recipes_.rbegin(); recipe != recipes_.rend(); ++recipe) {
    for (const std::string& name : (*recipe)->architectures()) {
      if (name == architecture) return recipe->get();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("architecture \"", std::string(architecture),
                   "\" has no recipe; supported are ",
                   absl::StrJoin(Architectures(), ", ")));
}

std::vector<std::string> RecipeBook::Architectures() const {
  std::set<std::string> names;
  for (const std::shared_ptr<const Recipe>& recipe : recipes_) {
    names.insert(recipe->architectures().begin(),
                 recipe->architectures().end());
  }
  return {names.begin(), names.end()};
}

}  // namespace weft::recipe
