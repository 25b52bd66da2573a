// How a kernel is started; launch.cuh starts it on a GPU, emulation/launches.cpp on the emulated grid.
#pragma once

#include <cstdint>
#include <functional>

namespace dcn::cuda {

// What a launch may depend on.
struct Device {
  int multiprocessors;
  int shared_bytes;   // the most that a block may ask for
  bool tensor_tiles;  // matrix operations and asynchronous copies, from compute capability 8.0 on
  bool vector_sums;   // additions of 16 bytes in the second-level cache, from compute capability 9.0 on
  void* stream;
};

// Calls body with the device of this index, which is current meanwhile, and torch's current stream of it.
void with_device(int index, const std::function<void(const Device&)>& body);

struct Launch {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
};

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int power_of_two_up_to(int64_t most) {
  int power = 1;
  while (2 * power <= most) power *= 2;
  return power;
}

}  // namespace dcn::cuda
