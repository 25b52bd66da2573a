// Which instruction sets the kernels use.
#pragma once

namespace dcn::cpu {

// Each includes the ones before it. On processors other than x86-64 there is only the first.
enum class Capability { generic, avx2, avx512, avx512_bf16 };

// The most that the processor has, or less where the environment variable DCN_CPU_CAPABILITY names it; read
// once. Throws std::runtime_error when that names none of the processor's.
Capability capability();

const char* capability_name();

}  // namespace dcn::cpu
