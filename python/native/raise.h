// Statuses as Python exceptions: one class of weft.errors a kind of failure.
#ifndef WEFT_PYTHON_RAISE_H_
#define WEFT_PYTHON_RAISE_H_

#include <nanobind/nanobind.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weft::python {

// What FAILED_PRECONDITION means depends on who says it.
enum class Phase { kAny, kPlanning };

// Throws unless OK. Needs the GIL.
void RaiseIfError(const absl::Status& status, Phase phase = Phase::kAny);

template <typename T>
T ValueOrRaise(absl::StatusOr<T> value, Phase phase = Phase::kAny) {
  RaiseIfError(value.status(), phase);
  return *std::move(value);
}

// Runs what may wait or move bytes while other Python threads go on.
template <typename F>
auto WithoutGil(F&& work) {
  const nanobind::gil_scoped_release release;
  return std::forward<F>(work)();
}

}  // namespace weft::python

#endif  // WEFT_PYTHON_RAISE_H_
