#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sessions.h"

namespace weft::python {
namespace {

namespace nb = nanobind;

// A tensor of any framework, borrowed by DLPack (NumPy, torch, JAX ...) or the
// buffer protocol (bytearray, memoryview). As long as this lives, the owner
// keeps the memory, whatever becomes of the tensor object.
class Borrowed {
 public:
  explicit Borrowed(nb::ndarray<nb::ro> array) : array_(std::move(array)) {}
  // Takes no memory that its owner calls read-only.
  static Borrowed ToWrite(const nb::ndarray<>& array) {
    return Borrowed(nb::ndarray<nb::ro>(array));
  }

  uint64_t address() const { return reinterpret_cast<uint64_t>(array_.data()); }
  size_t num_bytes() const { return array_.nbytes(); }
  bool on_host() const {
    return array_.device_type() == nb::device::cpu::value;
  }
  // As kDLCPU and so on are numbered in dlpack.h.
  int device_type() const { return array_.device_type(); }
  bool is_contiguous() const {
    if (array_.size() == 0) return true;
    int64_t expected = 1;
    for (size_t d = array_.ndim(); d-- > 0;) {
      const auto extent = static_cast<int64_t>(array_.shape(d));
      if (extent > 1 && array_.stride(d) != expected) return false;
      expected *= extent;
    }
    return true;
  }
  std::string strides() const {
    std::string text;
    for (size_t d = 0; d < array_.ndim(); ++d) {
      absl::StrAppend(&text, d == 0 ? "" : ", ", array_.stride(d));
    }
    return absl::StrCat("(", text, ")");
  }

 private:
  nb::ndarray<nb::ro> array_;
};

}  // namespace

void AddMemory(nb::module_& module) {
  nb::class_<Borrowed>(module, "Borrowed")
      .def(nb::init<nb::ndarray<nb::ro>>(), nb::arg("tensor"))
      .def_static("to_write", &Borrowed::ToWrite, nb::arg("tensor"))
      .def_prop_ro("address", &Borrowed::address)
      .def_prop_ro("num_bytes", &Borrowed::num_bytes)
      .def_prop_ro("on_host", &Borrowed::on_host)
      .def_prop_ro("device_type", &Borrowed::device_type)
      .def_prop_ro("is_contiguous", &Borrowed::is_contiguous)
      .def_prop_ro("strides", &Borrowed::strides);
}

}  // namespace weft::python
