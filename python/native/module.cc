// weft._native: the C++ sessions as weft/*.py use them. Not for users: the
// public names, with their documentation, are those of the package weft.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "absl/synchronization/mutex.h"
#include "endpoint.h"
#include "sessions.h"

NB_MODULE(_native, module) {
  // A hook that refers to its receiver is a cycle, and no defect at exit.
  nanobind::set_leak_warnings(false);
  // As in the program: apps/main.cc says why. This module has an Abseil of its
  // own, so nobody else's is meant.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  weft::python::AddCatalog(module);
  weft::python::AddMemory(module);
  weft::python::AddPlan(module);
  weft::python::AddPublisher(module);
  weft::python::AddReceiver(module);
  module.def("why_no_ucx", &weft::python::WhyNoUcx);
}
