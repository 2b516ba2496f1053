// The same work in several threads.
#ifndef WEFT_BASE_RUN_THREADS_H_
#define WEFT_BASE_RUN_THREADS_H_

#include <cstddef>

#include "absl/functional/function_ref.h"

namespace weft::base {

// Calls `work` in this thread and, at the same time, in others: in
// min(num_threads, num_items) threads in all, at least this one. Returns when
// all calls have. `work` takes items until there are none; where the system
// gives fewer threads, there are fewer calls.
void RunThreads(int num_threads, size_t num_items,
                absl::FunctionRef<void()> work);

}  // namespace weft::base

#endif  // WEFT_BASE_RUN_THREADS_H_
