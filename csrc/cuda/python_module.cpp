// The Python module `_CUDA`: importing it loads the library, whose static initialisers register the kernels.
#include <Python.h>

PyMODINIT_FUNC PyInit__CUDA(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_CUDA", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
