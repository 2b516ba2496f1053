// How many files this process may open: each worker of a catalog is a
// connection, and a connection is a file.
#ifndef WEFT_APPS_OPEN_FILES_H_
#define WEFT_APPS_OPEN_FILES_H_

#include <cstdint>

namespace weft::apps {

// Raises the limit that a process may raise by itself (1,024 on most machines)
// to the one that is set for it, up to 2^17: libraries make tables that large.
// Children inherit it. Call before there are threads.
void RaiseOpenFileLimit();

// What holds now.
int64_t OpenFileLimit();

}  // namespace weft::apps

#endif  // WEFT_APPS_OPEN_FILES_H_
