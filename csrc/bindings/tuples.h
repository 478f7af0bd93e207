// How arguments come from Python: a tuple for a struct, with one value for every member, in the order in which the
// struct declares its members. A tensor is its address (an int, 0 for none), a struct in the struct is a tuple in the
// tuple, a list (lists.h) is a list.
//
// So a new argument is a new member of the kernel's struct and a new value in the caller's tuple: nothing here and
// nothing in the bindings names it. The number of values is checked, and their types: no int for a bool, no float for an
// int.
#pragma once
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "lists.h"

namespace rearec {

namespace py = pybind11;

// Where the lists among the arguments lie for as long as the call.
class ListMemory {
 public:
  template <class T>
  T* take(size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= alignof(std::max_align_t));
    blocks_.emplace_back(new unsigned char[count * sizeof(T)]);
    return reinterpret_cast<T*>(blocks_.back().get());
  }

 private:
  std::vector<std::unique_ptr<unsigned char[]>> blocks_;
};

template <class T>
T read(PyObject* value, ListMemory& memory);

// --- Structs

// Becomes whatever a member of a struct has to be: by it the compiler counts the members.
struct AnyMember {
  template <class T>
  operator T() const;
};

template <class Struct, size_t... kIndex>
auto takes(std::index_sequence<kIndex...>) -> decltype(Struct{(static_cast<void>(kIndex), AnyMember{})...}, true);
template <class Struct>
void takes(...);

template <class Struct, size_t kCount>
constexpr bool has_members = std::is_same_v<decltype(takes<Struct>(std::make_index_sequence<kCount>{})), bool>;

constexpr size_t kMostMembers = 32;

template <class Struct, size_t kMost = kMostMembers>
constexpr size_t count_members() {
  static_assert(!has_members<Struct, kMostMembers + 1>, "a struct with more members: raise kMostMembers");
  if constexpr (has_members<Struct, kMost>)
    return kMost;
  else
    return count_members<Struct, kMost - 1>();
}

// One value of a tuple, to be read as the type of the member that it initialises.
struct TupleValue {
  PyObject* value;
  ListMemory& memory;
  template <class T>
  operator T() const {
    return read<T>(value, memory);
  }
};

template <class Struct, size_t... kIndex>
Struct read_members(PyObject* tuple, ListMemory& memory, std::index_sequence<kIndex...>) {
  return Struct{TupleValue{PyTuple_GET_ITEM(tuple, kIndex), memory}...};
}

// Specialised for a struct that is not what Python hands over.
template <class Struct>
Struct read_struct(PyObject* tuple, ListMemory& memory) {
  constexpr size_t kMembers = count_members<Struct>();
  if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != static_cast<Py_ssize_t>(kMembers))
    throw py::type_error("expected a tuple of " + std::to_string(kMembers) + " values, got " +
                         py::repr(tuple).cast<std::string>());
  return read_members<Struct>(tuple, memory, std::make_index_sequence<kMembers>{});
}

// --- Lists

template <class T>
void read_items(PyObject* list, ListMemory& memory, T* to) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) to[i] = read<T>(PyList_GET_ITEM(list, i), memory);
}

inline Py_ssize_t size_of_list(PyObject* list) {
  if (!PyList_Check(list)) throw py::type_error("expected a list, got " + py::repr(list).cast<std::string>());
  return PyList_GET_SIZE(list);
}

template <class T>
struct ListReader;

template <class T>
struct ListReader<List<T>> {
  static List<T> read(PyObject* list, ListMemory& memory) {
    const Py_ssize_t count = size_of_list(list);
    T* const items = memory.take<T>(static_cast<size_t>(count));
    read_items(list, memory, items);
    return {items, count};
  }
};

template <class T, int kMost>
struct ListReader<ShortList<T, kMost>> {
  static ShortList<T, kMost> read(PyObject* list, ListMemory& memory) {
    const Py_ssize_t count = size_of_list(list);
    if (count > kMost) throw py::value_error("expected a list of at most " + std::to_string(kMost));
    ShortList<T, kMost> to{};
    read_items(list, memory, to.items);
    to.count = static_cast<int>(count);
    return to;
  }
};

template <class T>
constexpr bool is_list = false;
template <class T>
constexpr bool is_list<List<T>> = true;
template <class T, int kMost>
constexpr bool is_list<ShortList<T, kMost>> = true;

// --- Values

template <class T>
T checked(T value) {
  if (PyErr_Occurred()) throw py::error_already_set();
  return value;
}

template <class T>
T read_integer(PyObject* value) {
  using Wide = std::conditional_t<std::is_signed_v<T>, long long, unsigned long long>;
  Wide wide;
  if constexpr (std::is_signed_v<T>)
    wide = PyLong_AsLongLong(value);
  else
    wide = PyLong_AsUnsignedLongLong(value);
  if (wide == static_cast<Wide>(-1)) checked(wide);
  if (static_cast<Wide>(static_cast<T>(wide)) != wide) throw py::value_error("an argument is out of range");
  return static_cast<T>(wide);
}

template <class T>
T read(PyObject* value, ListMemory& memory) {
  if constexpr (std::is_same_v<T, bool>) {
    if (!PyBool_Check(value)) throw py::type_error("expected a bool, got " + py::repr(value).cast<std::string>());
    return value == Py_True;
  } else if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<T>(read_integer<uintptr_t>(value));
  } else if constexpr (std::is_enum_v<T>) {
    return static_cast<T>(read_integer<int>(value));
  } else if constexpr (std::is_integral_v<T>) {
    return read_integer<T>(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(checked(PyFloat_AsDouble(value)));
  } else if constexpr (is_list<T>) {
    return ListReader<T>::read(value, memory);
  } else {
    return read_struct<T>(value, memory);
  }
}

// --- Functions

// Here alone, for all of them, are pybind11's templates of a function instantiated: they take long to compile.
inline void add(py::module_& module, const char* name, std::function<py::object(PyObject*)> run) {
  module.def(name, [run = std::move(run)](const py::args& values) { return run(values.ptr()); });
}

// Adds a function of as many arguments as `Arguments` has members. What runs them does so without the GIL.
template <class Arguments, class Run>
void def(py::module_& module, const char* name, const Run& run) {
  add(module, name, [run](PyObject* values) -> py::object {
    ListMemory memory;
    const Arguments arguments = read<Arguments>(values, memory);
    const auto without_gil = [&] {
      const py::gil_scoped_release release;
      return run(arguments);
    };
    if constexpr (std::is_void_v<decltype(without_gil())>) {
      without_gil();
      return py::none();
    } else {
      return py::cast(without_gil());
    }
  });
}
template <class Result, class Arguments>
void def(py::module_& module, const char* name, Result (*run)(const Arguments&)) {
  def<Arguments, Result (*)(const Arguments&)>(module, name, run);
}

}  // namespace rearec
