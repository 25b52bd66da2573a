// Host side of deformable convolution: checks, allocation, registration. The schemas are declared in Python,
// beside the operator (dcn_backbones/ops); this file is built against torch's stable ABI only.
#include "deform_conv2d.h"

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

// float16 has no kernels of its own, and bfloat16 only where the processor multiplies it natively, by pairs
// of neighbouring channels.
ScalarType compute_type(ScalarType type, const DeformConv2dParams& p) {
  const bool pairs = p.group_channels() % 2 == 0 && p.group_out_channels() % 2 == 0;
  const bool native =
      type != ScalarType::Half && (type != ScalarType::BFloat16 || (pairs && has_native_bfloat16_cpu()));
  return native ? type : ScalarType::Float;
}

ElementType element_type(ScalarType type) {
  if (type == ScalarType::Double) return ElementType::float64;
  return type == ScalarType::Float ? ElementType::float32 : ElementType::bfloat16;
}

int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

struct Geometry {
  std::vector<int64_t> stride, padding, dilation;  // height, width
};

// Everything that follows from shapes; tensors are filled in by the caller.
DeformConv2dParams make_params(const Tensor& input, const Tensor& offset, const Tensor& weight,
                               const Geometry& geometry) {
  check(input.dim() == 4 && offset.dim() == 4 && weight.dim() == 4,
        "input, offset and weight must have 4 dimensions");
  check(
      weight.size(1) > 0 && weight.size(2) > 0 && weight.size(3) > 0,
      "weight has shape " + shape_text(weight.sizes()) + ", expected at least one input channel and one tap");
  DeformConv2dParams p{};
  p.batch = input.size(0), p.in_channels = input.size(1);
  p.height = input.size(2), p.width = input.size(3);
  p.out_channels = weight.size(0);
  p.kernel_height = weight.size(2), p.kernel_width = weight.size(3);
  p.stride_height = geometry.stride[0], p.stride_width = geometry.stride[1];
  p.padding_height = geometry.padding[0], p.padding_width = geometry.padding[1];
  p.dilation_height = geometry.dilation[0], p.dilation_width = geometry.dilation[1];
  check(p.stride_height > 0 && p.stride_width > 0, "stride must be positive");
  p.out_height = output_size(p.height, p.kernel_height, p.stride_height, p.padding_height, p.dilation_height);
  p.out_width = output_size(p.width, p.kernel_width, p.stride_width, p.padding_width, p.dilation_width);
  p.groups = p.in_channels / weight.size(1);
  p.offset_groups = offset.size(1) / (2 * p.taps());
  return p;
}

void check_params(const DeformConv2dParams& p, const Tensor& offset, const std::optional<Tensor>& mask,
                  const Tensor& weight) {
  check(p.groups > 0 && p.offset_groups > 0, "groups and offset groups must be positive");
  check(p.in_channels % p.offset_groups == 0 && p.out_channels % p.groups == 0,
        "channels must be divisible by their groups");
  check_sizes("weight", weight, {p.out_channels, p.in_channels / p.groups, p.kernel_height, p.kernel_width});
  const int64_t samples = p.offset_groups * p.taps();
  check_sizes("offset", offset, {p.batch, 2 * samples, p.out_height, p.out_width});
  if (mask) check_sizes("mask", *mask, {p.batch, samples, p.out_height, p.out_width});
}

DeformConv2dParams checked_params(const Tensor& input, const Tensor& offset, const Tensor& weight,
                                  const std::optional<Tensor>& mask, const Geometry& geometry) {
  check_type(input);
  const DeformConv2dParams params = make_params(input, offset, weight, geometry);
  check_params(params, offset, mask, weight);
  return params;
}

// One call's tensors in the types and layouts that the kernels read; they own what `params` points to.
struct Arguments {
  DeformConv2dParams params;
  ScalarType type, accumulate;
  Tensor input, weight, offset;
  std::optional<Tensor> mask;

  Arguments(const Tensor& input_, const Tensor& offset_, const Tensor& weight_,
            const std::optional<Tensor>& mask_, const Geometry& geometry)
      : params(checked_params(input_, offset_, weight_, mask_, geometry)),
        type(compute_type(input_.scalar_type(), params)),
        accumulate(accumulate_type(type)),
        input(dense(input_, type)),
        weight(convert(weight_, type)),
        offset(convert(offset_, accumulate)) {
    params.element_type = element_type(type);
    params.layout =
        memory_format(input) == MemoryFormat::ChannelsLast ? Layout::channels_last : Layout::contiguous;
    params.input = input.const_data_ptr();
    params.weight = weight.const_data_ptr();
    params.weight_strides = strides(weight);
    params.offset = offset.const_data_ptr();
    params.offset_strides = strides(offset);
    if (!mask_) return;
    mask = convert(*mask_, accumulate);
    params.mask = mask->const_data_ptr();
    params.mask_strides = strides(*mask);
  }
};

Tensor forward_cpu(const Tensor& input, const Tensor& offset, const Tensor& weight,
                   const std::optional<Tensor>& bias, const std::optional<Tensor>& mask,
                   const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                   const std::vector<int64_t>& dilation) {
  Arguments arguments(input, offset, weight, mask, {stride, padding, dilation});
  DeformConv2dParams& p = arguments.params;
  std::optional<Tensor> converted_bias;  // added to the sums, hence in their type
  if (bias) {
    check_sizes("bias", *bias, {p.out_channels});
    converted_bias = torch::stable::contiguous(convert(*bias, arguments.accumulate));
    p.bias = converted_bias->const_data_ptr();
  }
  const Tensor output = empty({p.batch, p.out_channels, p.out_height, p.out_width}, arguments.type,
                              memory_format(arguments.input));
  p.output = output.mutable_data_ptr();
  if (output.numel() > 0) deform_conv2d_forward_cpu(p);
  return convert(output, input.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(const Tensor& grad_output, const Tensor& input,
                                                        const Tensor& offset, const Tensor& weight,
                                                        const std::optional<Tensor>& mask,
                                                        const std::vector<int64_t>& stride,
                                                        const std::vector<int64_t>& padding,
                                                        const std::vector<int64_t>& dilation,
                                                        const std::vector<bool>& needs) {
  Arguments arguments(channels_last(input, input.scalar_type()), offset, weight, mask,
                      {stride, padding, dilation});
  DeformConv2dParams& p = arguments.params;
  check_sizes("grad_output", grad_output, {p.batch, p.out_channels, p.out_height, p.out_width});
  const Tensor grad_rows = channels_last(grad_output, arguments.type);
  p.grad_output = grad_rows.const_data_ptr();

  const bool work = grad_output.numel() > 0;
  const auto result = [&](bool needed, const Tensor& like, MemoryFormat format, bool zeroed, void*& pointer) {
    if (!needed) return torch::stable::empty({0}, arguments.accumulate);
    Tensor gradient = empty_like(like, arguments.accumulate, format);
    if (zeroed || !work) torch::stable::zero_(gradient);
    pointer = gradient.mutable_data_ptr();
    return gradient;
  };
  const MemoryFormat channels_last = MemoryFormat::ChannelsLast;
  const Tensor grad_input = result(needs[0], input, channels_last, true, p.grad_input);
  const Tensor grad_offset = result(needs[1], offset, channels_last, false, p.grad_offset);
  const Tensor grad_weight = result(needs[2], weight, memory_format(weight), false, p.grad_weight);
  const Tensor grad_mask = result(needs[3] && mask, mask.value_or(offset), channels_last, false, p.grad_mask);
  if (p.grad_weight) p.grad_weight_strides = strides(grad_weight);
  if (work) deform_conv2d_backward_cpu(p);
  return {convert(grad_input, input.scalar_type()), convert(grad_offset, offset.scalar_type()),
          convert(grad_weight, weight.scalar_type()), convert(grad_mask, offset.scalar_type())};
}

}  // namespace
}  // namespace dcn

STABLE_TORCH_LIBRARY_IMPL(dcn_backbones, CPU, library) {
  library.impl("_deform_conv2d_forward", TORCH_BOX(&dcn::forward_cpu));
  library.impl("_deform_conv2d_backward", TORCH_BOX(&dcn::backward_cpu));
}
