// The Python modules `_C` and `_CUDA`: importing one loads its library, whose static initialisers register
// the kernels. torch's build names the module.
#include <Python.h>

#define DCN_MODULE_NAME_(name) #name
#define DCN_MODULE_NAME(name) DCN_MODULE_NAME_(name)
#define DCN_MODULE_INIT_(name) PyInit_##name
#define DCN_MODULE_INIT(name) DCN_MODULE_INIT_(name)

PyMODINIT_FUNC DCN_MODULE_INIT(TORCH_EXTENSION_NAME)(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT,
                               DCN_MODULE_NAME(TORCH_EXTENSION_NAME),
                               nullptr,
                               -1,
                               nullptr,
                               nullptr,
                               nullptr,
                               nullptr,
                               nullptr};
  return PyModule_Create(&module);
}
