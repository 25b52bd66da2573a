// Host side of the RoI pooling kernels: checks, pointers, registration. The schemas are declared in Python
// (ops/backends/cuda_kernels.py); what calls them, and allocates, is ops/backends/dense_roi_pool.py.
#include "roi_pool_cuda.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "host.h"

namespace dcn::cuda {
namespace {

// What both directions are given, checked; tensors that are not aligned are copied.
struct Pooled {
  Tensor input;                        // [N, H, W, C_in]
  Tensor boxes;                        // [R, 5]
  std::optional<Tensor> offset, mask;  // [R, 2 * offset_groups, kh, kw], [R, offset_groups, kh, kw]
  ScalarType type, accumulate;
  RoiPooling pooling{};

  Pooled(const Tensor& input_, const Tensor& boxes_, const std::optional<Tensor>& offset_,
         const std::optional<Tensor>& mask_, const Pair& output_size, double spatial_scale,
         int64_t sampling_ratio, double gamma, bool position_sensitive)
      : input(aligned(input_)),
        boxes(boxes_),
        offset(offset_),
        mask(mask_),
        type(input.scalar_type()),
        accumulate(accumulate_type(type)) {
    check(input.dim() == 4 && boxes.dim() == 2, "input must have 4 dimensions and boxes 2");
    check(output_size[0] > 0 && output_size[1] > 0, "output_size must be positive");
    pooling.spatial_scale = spatial_scale;
    pooling.gamma = gamma;
    pooling.position_sensitive = position_sensitive;
    check(sampling_ratio <= std::numeric_limits<int>::max(), "sampling_ratio does not fit 32 bits");
    pooling.sampling_ratio = static_cast<int>(std::max<int64_t>(sampling_ratio, 0));
    set_sizes(output_size);
    check_tensors();
    pooling.input = input.const_data_ptr();
    pooling.boxes = boxes.const_data_ptr();
    pooling.offset = offset ? offset->const_data_ptr() : nullptr;
    pooling.mask = mask ? mask->const_data_ptr() : nullptr;
  }

  std::vector<int64_t> output_sizes() const {
    return {pooling.regions, pooling.bins_height, pooling.bins_width, pooling.out_channels};
  }

  // Of offset and its gradient (values = 2), or of mask and its gradient (values = 1).
  std::vector<int64_t> position_sizes(int values) const {
    return {pooling.regions, values * pooling.offset_groups, pooling.bins_height, pooling.bins_width};
  }

  void* gradient(const std::string& name, const std::optional<Tensor>& gradient, int values) const {
    if (!gradient) return nullptr;
    check_tensor(name, *gradient, input, accumulate, position_sizes(values));
    return gradient->mutable_data_ptr();
  }

 private:
  // Pixels of an image and elements of a region fit 32 bits; images and regions are counted in 64.
  void set_sizes(const Pair& output_size) {
    RoiPooling& p = pooling;
    narrow_index(input.size(1) * input.size(2), "pixels");
    p.images = input.size(0);
    p.height = narrow_index(input.size(1), "rows of pixels");
    p.width = narrow_index(input.size(2), "columns of pixels");
    p.channels = narrow_index(input.size(3), "channels");
    p.regions = narrow_index(boxes.size(0), "regions");
    p.bins_height = narrow_index(output_size[0], "rows of bins");
    p.bins_width = narrow_index(output_size[1], "columns of bins");
    const int64_t bins = output_size[0] * output_size[1];
    check(p.height > 0 && p.width > 0 && p.channels > 0 && p.regions > 0,
          "pixels, channels and boxes must not be empty");
    check(!p.position_sensitive || p.channels % bins == 0, "channels must be divisible by bins");
    p.out_channels = static_cast<int>(p.position_sensitive ? p.channels / bins : p.channels);
    narrow_index(bins * p.out_channels, "elements of a region");
    const int64_t groups = offset ? offset->size(1) / 2 : mask ? mask->size(1) : 1;
    check(groups > 0 && p.out_channels % groups == 0, "output channels must be divisible by offset groups");
    p.offset_groups = static_cast<int>(groups);
  }

  void check_tensors() const {
    check_tensor("input", input, input, type,
                 {input.size(0), pooling.height, pooling.width, pooling.channels});
    check_tensor("boxes", boxes, input, accumulate, {pooling.regions, 5});
    if (offset) check_tensor("offset", *offset, input, accumulate, position_sizes(2));
    if (mask) check_tensor("mask", *mask, input, accumulate, position_sizes(1));
  }
};

void roi_pool_cuda(const Tensor& input, const Tensor& boxes, const std::optional<Tensor>& offset,
                   const std::optional<Tensor>& mask, const Pair& output_size, double spatial_scale,
                   int64_t sampling_ratio, double gamma, bool position_sensitive, Tensor output) {
  const Pooled pooled(input, boxes, offset, mask, output_size, spatial_scale, sampling_ratio, gamma,
                      position_sensitive);
  check_tensor("output", output, input, pooled.type, pooled.output_sizes());
  check(reinterpret_cast<uintptr_t>(output.const_data_ptr()) % 16 == 0, "output is not aligned to 16 bytes");
  RoiGatherParams params{};
  params.pooling = pooled.pooling;
  params.output = output.mutable_data_ptr();
  with_device(input.get_device_index(),
              [&](const Device& device) { launch_roi_gather(params, element_type(pooled.type), device); });
}

RoiScatterParams scatter_params(const Pooled& pooled, const Tensor& grad_output, const Tensor& grad_input,
                                const std::optional<Tensor>& scale) {
  const RoiPooling& p = pooled.pooling;
  check_tensor("grad_input", grad_input, pooled.input, scale ? ScalarType::Long : pooled.accumulate,
               {p.images, p.height, p.width, p.channels});
  check(reinterpret_cast<uintptr_t>(grad_input.const_data_ptr()) % 16 == 0,
        "grad_input is not aligned to 16 bytes");
  if (scale) check_tensor("scale", *scale, pooled.input, pooled.accumulate, {});
  RoiScatterParams params{};
  params.pooling = p;
  params.grad_output = grad_output.const_data_ptr();
  params.grad_input = grad_input.mutable_data_ptr();
  params.scale = scale ? scale->const_data_ptr() : nullptr;
  return params;
}

void roi_pool_backward_cuda(const Tensor& grad_output_, const Tensor& input, const Tensor& boxes,
                            const std::optional<Tensor>& offset, const std::optional<Tensor>& mask,
                            const Pair& output_size, double spatial_scale, int64_t sampling_ratio,
                            double gamma, bool position_sensitive, std::optional<Tensor> grad_input,
                            std::optional<Tensor> grad_offset, std::optional<Tensor> grad_mask,
                            const std::optional<Tensor>& scale) {
  const Pooled pooled(input, boxes, offset, mask, output_size, spatial_scale, sampling_ratio, gamma,
                      position_sensitive);
  const Tensor grad_output = aligned(grad_output_);
  check_tensor("grad_output", grad_output, input, pooled.type, pooled.output_sizes());
  RoiGatherParams gather{};
  gather.pooling = pooled.pooling;
  gather.grad_output = grad_output.const_data_ptr();
  gather.grad_offset = pooled.gradient("grad_offset", grad_offset, 2);
  gather.grad_mask = pooled.gradient("grad_mask", grad_mask, 1);
  const RoiScatterParams scatter =
      grad_input ? scatter_params(pooled, grad_output, *grad_input, scale) : RoiScatterParams{};
  const ElementType type = element_type(pooled.type);
  with_device(input.get_device_index(), [&](const Device& device) {
    if (grad_offset || grad_mask) launch_roi_gather(gather, type, device);
    if (grad_input) launch_roi_scatter(scatter, type, device);
  });
}

}  // namespace
}  // namespace dcn::cuda

STABLE_TORCH_LIBRARY_IMPL(dcn_backbones, DCN_DISPATCH_KEY, library) {
  library.impl("_roi_pool", TORCH_BOX(&dcn::cuda::roi_pool_cuda));
  library.impl("_roi_pool_backward", TORCH_BOX(&dcn::cuda::roi_pool_backward_cuda));
}
