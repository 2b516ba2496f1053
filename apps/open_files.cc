#include "open_files.h"

#include <sys/resource.h>

#include <algorithm>

namespace weft::apps {
namespace {

constexpr rlim_t kMost = rlim_t{1} << 17;

}  // namespace

void RaiseOpenFileLimit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  const rlim_t wanted = std::min(files.rlim_max, kMost);
  if (files.rlim_cur >= wanted) return;
  files.rlim_cur = wanted;
  // What cannot be raised stays: whoever needs more fails with its own error.
  setrlimit(RLIMIT_NOFILE, &files);
}

int64_t OpenFileLimit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return 0;
  return static_cast<int64_t>(std::min(files.rlim_cur, kMost));
}

}  // namespace weft::apps
