#include "capability.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dcn::cpu {
namespace {

constexpr const char* kNames[] = {"generic", "avx2", "avx512", "avx512_bf16",
                                  "amx"};  // as in the enumeration

// Whether the processor has AMX for bfloat16 and the kernel lets this process use it: its registers are
// large, and Linux saves them for processes only that ask.
bool has_amx() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kBFloat16 = 1u << 22, kTiles = 1u << 24;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBFloat16) && (d & kTiles) &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Capability of_processor() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Capability::generic;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Capability::avx2;
  }
  if (!__builtin_cpu_supports("avx512bf16")) return Capability::avx512;
  return has_amx() ? Capability::amx : Capability::avx512_bf16;
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
