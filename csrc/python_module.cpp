// The Python module `_C`: importing it loads the library, whose static initialisers register the kernels.
#include <Python.h>

#include <exception>

#include "cpu/capability.h"

namespace {

PyObject* cpu_capability(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(dcn::cpu::capability_name());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyMethodDef methods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, "The instruction sets that the CPU kernels use."}, {}};

}  // namespace

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
