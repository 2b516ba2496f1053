// How a NIXL is found and refused; none needs to be installed.
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "weft/transport/nixl/nixl_library_internal.h"
#include "weft/transport/nixl/nixl_transport.h"

namespace weft::transport::nixl {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

// The layout of the PyPI package, with files of the test's own.
class FakePackage {
 public:
  FakePackage() {
    std::string name = (fs::temp_directory_path() / "weft-XXXXXX").string();
    root_ = mkdtemp(name.data());
    packages_ = root_ / "lib/python3.11/site-packages";
    Write(".nixl_cu13.mesonpy.libs/libnixl_capi.so");
    Write("nixl_cu13.libs/libucp-abc.so.0.0.0");
    Write("nixl_cu13.libs/libucs-def.so.0.0.0");
    fs::create_directories(packages_ / "nixl_cu13-1.5.7.dist-info");
  }
  ~FakePackage() { fs::remove_all(root_); }
  const fs::path& root() const { return root_; }
  std::string library() const {
    return (packages_ / ".nixl_cu13.mesonpy.libs/libnixl_capi.so").string();
  }
  fs::path packages() const { return packages_; }

 private:
  void Write(const std::string& name) {
    fs::create_directories((packages_ / name).parent_path());
    std::ofstream(packages_ / name) << "no library";
  }
  fs::path root_;
  fs::path packages_;
};

TEST(NixlLibrary, IsFoundInTheActivePythonEnvironment) {
  const FakePackage package;
  setenv("VIRTUAL_ENV", package.root().c_str(), 1);
  unsetenv("WEFT_NIXL_LIBRARY");
  const auto found = FindLibrary("");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(*found, package.library());
  EXPECT_EQ(PackageVersion(*found), "1.5.7");
  EXPECT_EQ(BundledUcx(*found),
            (package.packages() / "nixl_cu13.libs/libucp-abc.so.0.0.0"));
  EXPECT_EQ(*FindNixl(), "nixl 1.5.7 (" + package.library() + ")");
}

TEST(NixlLibrary, SaysWhatToInstall) {
  const auto none = FindLibrary("/nowhere/libnixl_capi.so");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.status().message()),
              testing::AllOf(HasSubstr("/nowhere/libnixl_capi.so"),
                             HasSubstr("pip install --no-deps nixl-cu13"),
                             HasSubstr("WEFT_NIXL_LIBRARY")));
}

TEST(NixlLibrary, RefusesWhatIsNoLibrary) {
  const FakePackage package;
  const auto loaded = Library::Load(package.library());
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(loaded.status().message()),
              HasSubstr(package.library()));
}

TEST(NixlLibrary, NamesTheFunctionsThatALibraryLacks) {
  // Any library that is there has none of them.
  const auto loaded = Library::Load("/lib/x86_64-linux-gnu/libz.so.1");
  if (loaded.status().code() == absl::StatusCode::kNotFound) {
    GTEST_SKIP() << "no libz";
  }
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(loaded.status().message()),
              testing::AllOf(HasSubstr("nixl_capi_create_configured_agent"),
                             HasSubstr("nixl_capi_get_xfer_status")));
}

TEST(NixlLibrary, KnowsWhichVersionsWereTested) {
  EXPECT_TRUE(IsTested("1.5.1"));
  for (const char* version : {"", "0.10.1", "1.4.0", "1.6.0", "11.5.0"}) {
    EXPECT_FALSE(IsTested(version)) << version;
  }
}

}  // namespace
}  // namespace weft::transport::nixl
