// In a framework, headers stand under its name; everywhere else they do not.
#include <onnxruntime/onnxruntime_cxx_api.h>
