// The parts of the extension module.
#ifndef WEFT_PYTHON_SESSIONS_H_
#define WEFT_PYTHON_SESSIONS_H_

#include <nanobind/nanobind.h>

namespace weft::python {

void AddCatalog(nanobind::module_& module);
void AddMemory(nanobind::module_& module);
void AddPlan(nanobind::module_& module);
void AddPublisher(nanobind::module_& module);
void AddReceiver(nanobind::module_& module);

}  // namespace weft::python

#endif  // WEFT_PYTHON_SESSIONS_H_
