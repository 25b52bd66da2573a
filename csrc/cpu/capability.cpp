#include "capability.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dcn::cpu {
namespace {

constexpr const char* kNames[] = {"generic", "avx2", "avx512", "avx512_bf16"};  // as in the enumeration

Capability of_processor() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Capability::generic;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Capability::avx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? Capability::avx512_bf16 : Capability::avx512;
#else
  return Capability::generic;
#endif
}

Capability lowered(Capability most, const std::string& name) {
  std::string names;
  for (int i = 0; i <= static_cast<int>(most); ++i) {
    if (name == kNames[i]) return static_cast<Capability>(i);
    names += (i ? ", " : "") + std::string(kNames[i]);
  }
  throw std::runtime_error("DCN_CPU_CAPABILITY names '" + name +
                           "', expected one that this processor has: " + names);
}

}  // namespace

Capability capability() {
  static const Capability chosen = [] {
    const char* name = std::getenv("DCN_CPU_CAPABILITY");
    return name && *name ? lowered(of_processor(), name) : of_processor();
  }();
  return chosen;
}

const char* capability_name() { return kNames[static_cast<int>(capability())]; }

}  // namespace dcn::cpu
