#include "bindings/module.h"
#include "cpu/recycled_memory.h"

namespace rearec {

namespace py = pybind11;

void bind_memory(py::module_& module) {
  py::class_<RecycledBlock>(module, "RecycledBlock", py::buffer_protocol())
      .def(py::init<size_t>())
      .def_buffer([](RecycledBlock& self) {
        return py::buffer_info(static_cast<uint8_t*>(self.block.data), static_cast<py::ssize_t>(self.block.bytes));
      });
  module.def("set_recycling_limit", [](size_t bytes) { recycled_memory().set_limit(bytes); });
  module.def("recycled_bytes", [] { return recycled_memory().kept_bytes(); });
}

}  // namespace rearec
