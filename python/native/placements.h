// weft.layout.Placement of Python to and from manifest::Placement.
#ifndef WEFT_PYTHON_PLACEMENTS_H_
#define WEFT_PYTHON_PLACEMENTS_H_

#include <nanobind/nanobind.h>

#include "weft/manifest/placement.h"

namespace weft::python {

// Raises BadInput that names the stored tensor and what is wrong with it.
manifest::Placement FromPython(nanobind::handle placement);
nanobind::object ToPython(const manifest::Placement& placement);

}  // namespace weft::python

#endif  // WEFT_PYTHON_PLACEMENTS_H_
