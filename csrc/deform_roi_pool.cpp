// Host side of deformable RoI pooling: checks, allocation, registration. The schemas are declared in Python.
#include "deform_roi_pool.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tensors.h"

namespace dcn {
namespace {

struct Settings {
  std::vector<int64_t> output_size;
  double spatial_scale;
  int64_t sampling_ratio;
  double gamma;
  bool position_sensitive;
};

int64_t offset_groups(const std::optional<Tensor>& offset, const std::optional<Tensor>& mask) {
  if (offset) return offset->size(1) / 2;
  return mask ? mask->size(1) : 1;
}

Layout layout_of(const Tensor& dense_tensor) {
  return memory_format(dense_tensor) == MemoryFormat::ChannelsLast ? Layout::channels_last
                                                                   : Layout::contiguous;
}

MemoryFormat format_of(Layout layout) {
  return layout == Layout::channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// Everything that follows from shapes; tensors are filled in by the caller.
DeformRoIPoolParams make_params(const Tensor& input, const Tensor& boxes, const std::optional<Tensor>& offset,
                                const std::optional<Tensor>& mask, const Settings& settings) {
  check(input.dim() == 4 && boxes.dim() == 2, "input must have 4 dimensions and boxes 2");
  check((!offset || offset->dim() == 4) && (!mask || mask->dim() == 4),
        "offset and mask must have 4 dimensions");
  DeformRoIPoolParams p{};
  p.batch = input.size(0), p.in_channels = input.size(1);
  p.height = input.size(2), p.width = input.size(3);
  p.regions = boxes.size(0);
  p.bins_height = settings.output_size[0], p.bins_width = settings.output_size[1];
  check(p.bins_height > 0 && p.bins_width > 0, "output_size must be positive");
  p.position_sensitive = settings.position_sensitive;
  p.out_channels = p.position_sensitive ? p.in_channels / p.bins() : p.in_channels;
  p.offset_groups = offset_groups(offset, mask);
  p.sampling_ratio = settings.sampling_ratio;
  p.spatial_scale = settings.spatial_scale;
  p.gamma = settings.gamma;
  return p;
}

DeformRoIPoolParams checked_params(const Tensor& input, const Tensor& boxes,
                                   const std::optional<Tensor>& offset, const std::optional<Tensor>& mask,
                                   const Settings& settings) {
  check_type(input);
  const DeformRoIPoolParams p = make_params(input, boxes, offset, mask, settings);
  check_sizes("boxes", boxes, {p.regions, 5});
  check(!p.position_sensitive || p.in_channels % p.bins() == 0,
        "channels must be divisible by the bins where they are position-sensitive");
  check(p.offset_groups > 0 && p.out_channels % p.offset_groups == 0,
        "offset groups must divide the channels of the output");
  if (offset) check_sizes("offset", *offset, {p.regions, 2 * p.offset_groups, p.bins_height, p.bins_width});
  if (mask) check_sizes("mask", *mask, {p.regions, p.offset_groups, p.bins_height, p.bins_width});
  return p;
}

// One call's tensors in the types and layouts that the kernels read; they own what `params` points to.
struct Arguments {
  DeformRoIPoolParams params;
  ScalarType type;
  Tensor input, boxes;
  std::optional<Tensor> offset, mask;

  Arguments(const Tensor& input_, const Tensor& boxes_, const std::optional<Tensor>& offset_,
            const std::optional<Tensor>& mask_, const Settings& settings)
      : params(checked_params(input_, boxes_, offset_, mask_, settings)),
        type(accumulate_type(input_.scalar_type())),
        input(dense(input_, type)),
        boxes(torch::stable::contiguous(convert(boxes_, type))) {
    params.element_type = type == ScalarType::Double ? ElementType::float64 : ElementType::float32;
    params.layout = layout_of(input);
    params.input = input.const_data_ptr();
    params.boxes = boxes.const_data_ptr();
    if (offset_) {
      offset = convert(*offset_, type);
      params.offset = offset->const_data_ptr();
      params.offset_strides = strides(*offset);
    }
    if (mask_) {
      mask = convert(*mask_, type);
      params.mask = mask->const_data_ptr();
      params.mask_strides = strides(*mask);
    }
  }
};

Tensor forward_cpu(const Tensor& input, const Tensor& boxes, const std::optional<Tensor>& offset,
                   const std::optional<Tensor>& mask, const std::vector<int64_t>& output_size,
                   double spatial_scale, int64_t sampling_ratio, double gamma, bool position_sensitive) {
  Arguments arguments(input, boxes, offset, mask,
                      {output_size, spatial_scale, sampling_ratio, gamma, position_sensitive});
  DeformRoIPoolParams& p = arguments.params;
  const Tensor output =
      empty({p.regions, p.out_channels, p.bins_height, p.bins_width}, arguments.type, format_of(p.layout));
  p.output = output.mutable_data_ptr();
  if (output.numel() > 0) deform_roi_pool_forward_cpu(p);
  return convert(output, input.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(const Tensor& grad_output, const Tensor& input,
                                                const Tensor& boxes, const std::optional<Tensor>& offset,
                                                const std::optional<Tensor>& mask,
                                                const std::vector<int64_t>& output_size, double spatial_scale,
                                                int64_t sampling_ratio, double gamma, bool position_sensitive,
                                                const std::vector<bool>& needs) {
  Arguments arguments(input, boxes, offset, mask,
                      {output_size, spatial_scale, sampling_ratio, gamma, position_sensitive});
  DeformRoIPoolParams& p = arguments.params;
  check_sizes("grad_output", grad_output, {p.regions, p.out_channels, p.bins_height, p.bins_width});
  const Tensor grads = dense(grad_output, arguments.type);
  p.grad_output = grads.const_data_ptr();
  p.grad_output_layout = layout_of(grads);

  const auto result = [&](bool needed, const Tensor& like, MemoryFormat format, void*& pointer) {
    if (!needed) return torch::stable::empty({0}, arguments.type);
    Tensor gradient = empty_like(like, arguments.type, format);
    pointer = gradient.mutable_data_ptr();
    return gradient;
  };
  const MemoryFormat contiguous = MemoryFormat::Contiguous;
  const Tensor grad_input = result(needs[0], input, format_of(p.layout), p.grad_input);
  const Tensor grad_offset = result(needs[1] && offset, offset.value_or(boxes), contiguous, p.grad_offset);
  const Tensor grad_mask = result(needs[2] && mask, mask.value_or(boxes), contiguous, p.grad_mask);
  deform_roi_pool_backward_cpu(p);
  return {convert(grad_input, input.scalar_type()), grad_offset, grad_mask};
}

}  // namespace
}  // namespace dcn

STABLE_TORCH_LIBRARY_IMPL(dcn_backbones, CPU, library) {
  library.impl("_deform_roi_pool_forward", TORCH_BOX(&dcn::forward_cpu));
  library.impl("_deform_roi_pool_backward", TORCH_BOX(&dcn::backward_cpu));
}
