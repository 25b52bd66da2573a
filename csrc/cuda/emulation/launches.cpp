// The launches of the CUDA kernels on the emulated grid: with the host side registered for the CPU, tests run
// all of the operator's CUDA path but the GPU.
#include <stdexcept>
#include <string>
#include <typeinfo>

#include "../deform_conv2d_cuda.h"
#include "../plan.h"
#include "../roi_plan.h"
#include "../roi_pool_cuda.h"

namespace dcn::cuda {
namespace {

Device emulated_device{4, 227 << 10, true, true, nullptr};
const char* last_kernel = "";
bool backwards = false;  // whether the threads of a block run in the opposite order

template <typename Kernel>
void launch(const typename Kernel::Params& params, const Launch& launch) {
  if (launch.threads > Kernel::kThreads)
    throw std::logic_error("more threads than the kernel was compiled for");
  if (launch.threads % kWarpLanes != 0) throw std::logic_error("a warp is not full");
  if (launch.shared_bytes > emulated_device.shared_bytes) throw std::logic_error("too much shared memory");
  last_kernel = typeid(Kernel).name();
  const std::function<void()> body = [&] { Kernel::run(params); };
  for (int64_t block = 0; block < launch.blocks; ++block) {
    EmulatedBlock(static_cast<int>(block), launch.threads, launch.shared_bytes, backwards, body).run();
  }
}

constexpr auto on_emulated_grid = [](auto kernel, const auto& params, const Launch& grid) {
  launch<decltype(kernel)>(params, grid);
};

}  // namespace

void launch_gather(const GatherParams& params, ElementType type, const Device& device) {
  plan_gather(params, type, device, on_emulated_grid);
}

void launch_scatter(const ScatterParams& params, ElementType type, const Device& device) {
  plan_scatter(params, type, device, on_emulated_grid);
}

bool launch_fused_forward(const FusedParams& params, ElementType type, const Device& device) {
  return plan_fused_forward(params, type, device, on_emulated_grid);
}

void launch_roi_gather(const RoiGatherParams& params, ElementType type, const Device& device) {
  plan_roi_gather(params, type, device, on_emulated_grid);
}

void launch_roi_scatter(const RoiScatterParams& params, ElementType type, const Device& device) {
  plan_roi_scatter(params, type, device, on_emulated_grid);
}

void with_device(int, const std::function<void(const Device&)>& body) { body(emulated_device); }

}  // namespace dcn::cuda

// The mangled name of the kernel that was launched last.
extern "C" const char* last_emulated_kernel() { return dcn::cuda::last_kernel; }

// What tests vary, called through ctypes.
extern "C" void set_emulated_device(int multiprocessors, int shared_bytes, int tensor_tiles, int vector_sums,
                                    int backwards) {
  dcn::cuda::emulated_device = {multiprocessors, shared_bytes, tensor_tiles != 0, vector_sums != 0, nullptr};
  dcn::cuda::backwards = backwards != 0;
}
