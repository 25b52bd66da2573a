// Host side of the CUDA kernels: checks, pointers, registration. The schemas are declared in Python, beside
// what calls them (ops/backends/cuda_kernels.py), which also allocates; nothing here waits for the device.
#include "deform_conv2d_cuda.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "host.h"

namespace dcn::cuda {
namespace {

template <typename Pointer>
Pointer advance(Pointer start, int64_t elements, ScalarType type) {
  const int64_t bytes = type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return start ? static_cast<Byte*>(start) + elements * bytes : start;
}

struct Geometry {
  const Pair &kernel, &stride, &padding, &dilation;
};

// The tensors that are sampled, checked, and all that follows from them for positions [first, first + rows).
struct Sampled {
  Tensor input;                // [N, H, W, C_in]
  Tensor offset;               // [N, H_out, W_out, 2 * offset_groups * K]
  std::optional<Tensor> mask;  // [N, H_out, W_out, offset_groups * K]
  ScalarType type, accumulate;
  int64_t first;
  int64_t samples_of_row;
  Sampling sampling;

  Sampled(const Tensor& input_, const Tensor& offset_, const std::optional<Tensor>& mask_,
          const Geometry& geometry, int64_t first_, int64_t rows)
      : input(aligned(input_)),
        offset(aligned(offset_)),
        mask(mask_ ? std::optional(aligned(*mask_)) : std::nullopt),
        type(input.scalar_type()),
        accumulate(accumulate_type(type)),
        first(first_),
        sampling(sizes(input, offset, geometry)) {
    samples_of_row = static_cast<int64_t>(sampling.offset_groups) * sampling.taps();
    check_tensors(rows);
    const int64_t positions = static_cast<int64_t>(sampling.out_height) * sampling.out_width;
    const int64_t image = first / positions, images = (first + rows - 1) / positions - image + 1;
    const int64_t pixels = static_cast<int64_t>(sampling.height) * sampling.width;
    narrow_index(images * pixels, "pixels");
    narrow_index(images * positions, "output positions");
    sampling.rows = narrow_index(rows, "output positions");
    sampling.first = static_cast<int>(first - image * positions);
    sampling.input = advance(input.const_data_ptr(), image * pixels * sampling.channels, type);
    sampling.offset = advance(offset.const_data_ptr(), first * samples_of_row * 2, accumulate);
    sampling.mask = mask ? advance(mask->const_data_ptr(), first * samples_of_row, accumulate) : nullptr;
  }

  // The part of a gradient of offset (values = 2) or mask (values = 1) that belongs to these rows.
  void* gradient_rows(const std::string& name, const std::optional<Tensor>& gradient, int64_t values) const {
    if (!gradient) return nullptr;
    check_tensor(name, *gradient, input, accumulate,
                 {offset.size(0), offset.size(1), offset.size(2), values * samples_of_row});
    return advance(gradient->mutable_data_ptr(), first * samples_of_row * values, accumulate);
  }

 private:
  static Sampling sizes(const Tensor& input, const Tensor& offset, const Geometry& g) {
    check(input.dim() == 4 && offset.dim() == 4, "input and offset must have 4 dimensions");
    Sampling s{};
    s.height = narrow_index(input.size(1), "rows of pixels");
    s.width = narrow_index(input.size(2), "columns of pixels");
    s.channels = narrow_index(input.size(3), "channels");
    s.out_height = narrow_index(offset.size(1), "rows of output positions");
    s.out_width = narrow_index(offset.size(2), "columns of output positions");
    s.kernel_height = static_cast<int>(g.kernel[0]), s.kernel_width = static_cast<int>(g.kernel[1]);
    s.stride_height = static_cast<int>(g.stride[0]), s.stride_width = static_cast<int>(g.stride[1]);
    s.padding_height = static_cast<int>(g.padding[0]), s.padding_width = static_cast<int>(g.padding[1]);
    s.dilation_height = static_cast<int>(g.dilation[0]), s.dilation_width = static_cast<int>(g.dilation[1]);
    check(s.taps() > 0 && s.channels > 0, "the kernel and the channels of input must not be empty");
    s.offset_groups = static_cast<int>(offset.size(3) / (2 * s.taps()));
    check(s.offset_groups > 0 && s.channels % s.offset_groups == 0,
          "channels must be divisible by offset groups");
    return s;
  }

  void check_tensors(int64_t rows) const {
    const std::vector<int64_t> out{input.size(0), offset.size(1), offset.size(2)};
    check(first >= 0 && rows > 0 && first + rows <= out[0] * out[1] * out[2],
          "the rows of columns are not positions of the output");
    check_tensor("input", input, input, type, {out[0], input.size(1), input.size(2), input.size(3)});
    check_tensor("offset", offset, input, accumulate, {out[0], out[1], out[2], 2 * samples_of_row});
    if (mask) check_tensor("mask", *mask, input, accumulate, {out[0], out[1], out[2], samples_of_row});
  }
};

// Columns or their gradient are [groups, rows, K, C_in / groups].
void check_columns(const std::string& name, const Tensor& columns, const Sampled& sampled) {
  const Sampling& s = sampled.sampling;
  check(columns.dim() == 4 && columns.size(0) > 0, name + " must have 4 dimensions");
  check_tensor(name, columns, sampled.input, sampled.type,
               {columns.size(0), s.rows, s.taps(), s.channels / columns.size(0)});
  check(reinterpret_cast<uintptr_t>(columns.const_data_ptr()) % 16 == 0,
        name + " is not aligned to 16 bytes");
  narrow_index(columns.numel(), "elements of columns");
}

void gather_cuda(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
                 const Pair& kernel, const Pair& stride, const Pair& padding, const Pair& dilation,
                 int64_t first, Tensor columns) {
  const Sampled sampled(input, offset, mask, {kernel, stride, padding, dilation}, first, columns.size(1));
  check_columns("columns", columns, sampled);
  GatherParams params{};
  params.sampling = sampled.sampling;
  params.groups = static_cast<int>(columns.size(0));
  params.columns = columns.mutable_data_ptr();
  with_device(input.get_device_index(),
              [&](const Device& device) { launch_gather(params, element_type(sampled.type), device); });
}

void check_grad_input(const Tensor& grad_input, const std::optional<Tensor>& scale, const Sampled& sampled) {
  const Sampling& s = sampled.sampling;
  check_tensor("grad_input", grad_input, sampled.input, scale ? ScalarType::Long : sampled.accumulate,
               {grad_input.size(0), s.height, s.width, s.channels});
  const int64_t positions = static_cast<int64_t>(s.out_height) * s.out_width;
  check(s.first + static_cast<int64_t>(s.rows) <= grad_input.size(0) * positions,
        "grad_input has fewer images than the rows of grad_columns");
  // The images of a block may begin anywhere; odd numbers of channels are not added in vectors.
  check(s.channels % 4 != 0 || reinterpret_cast<uintptr_t>(grad_input.const_data_ptr()) % 16 == 0,
        "grad_input is not aligned to 16 bytes");
  if (scale) check_tensor("scale", *scale, sampled.input, sampled.accumulate, {});
}

void gather_backward_cuda(const Tensor& grad_columns, const Tensor& input, const Tensor& offset,
                          const std::optional<Tensor>& mask, const Pair& kernel, const Pair& stride,
                          const Pair& padding, const Pair& dilation, int64_t first,
                          std::optional<Tensor> columns, std::optional<Tensor> grad_offset,
                          std::optional<Tensor> grad_mask, std::optional<Tensor> grad_input,
                          const std::optional<Tensor>& scale) {
  const Sampled sampled(input, offset, mask, {kernel, stride, padding, dilation}, first,
                        grad_columns.size(1));
  check_columns("grad_columns", grad_columns, sampled);
  if (columns) check_columns("columns", *columns, sampled);
  GatherParams gather{};
  gather.sampling = sampled.sampling;
  gather.groups = static_cast<int>(grad_columns.size(0));
  gather.columns = columns ? columns->mutable_data_ptr() : nullptr;
  gather.grad_offset = sampled.gradient_rows("grad_offset", grad_offset, 2);
  gather.grad_mask = sampled.gradient_rows("grad_mask", grad_mask, 1);
  const bool of_samples = grad_offset || grad_mask;

  ScatterParams scatter{};
  scatter.sampling = sampled.sampling;
  scatter.groups = gather.groups;
  scatter.grad_columns = grad_columns.const_data_ptr();
  if (grad_input) {
    check_grad_input(*grad_input, scale, sampled);
    scatter.grad_input = grad_input->mutable_data_ptr();
    scatter.scale = scale ? scale->const_data_ptr() : nullptr;
  }
  with_device(input.get_device_index(), [&](const Device& device) {
    const ElementType type = element_type(sampled.type);
    const bool together = grad_input && !scale && gather_adds_to_pixels(gather, type, device);
    if (together) gather.grad_input = scatter.grad_input;
    if (of_samples || together) gather.grad_columns = grad_columns.const_data_ptr();
    // The scatter reads the gradient of columns, which the gather may overwrite with columns.
    if (grad_input && !together) launch_scatter(scatter, type, device);
    if (of_samples || together || columns) launch_gather(gather, type, device);
  });
}

// False where the fused kernel does not take the call; all of output is then untouched. Input is [N, H, W,
// C_in], weight [C_out, kh, kw, C_in / groups], output [N, H_out, W_out, C_out].
bool fused_forward_cuda(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
                        const Tensor& weight, const std::optional<Tensor>& bias, const Pair& stride,
                        const Pair& padding, const Pair& dilation, Tensor output) {
  check(weight.dim() == 4 && output.dim() == 4, "weight and output must have 4 dimensions");
  const Pair kernel{weight.size(1), weight.size(2)};
  const int64_t rows = output.size(0) * output.size(1) * output.size(2);
  check(input.dim() == 4, "input must have 4 dimensions");
  if (std::max(rows, input.size(0) * input.size(1) * input.size(2)) > kMostIndices) return false;
  const Sampled sampled(input, offset, mask, {kernel, stride, padding, dilation}, 0, rows);
  const Sampling& s = sampled.sampling;
  check(weight.size(3) > 0 && s.channels % weight.size(3) == 0,
        "channels must be divisible by those of weight");
  FusedParams params{};
  params.sampling = s;
  params.groups = static_cast<int>(s.channels / weight.size(3));
  params.out_channels = narrow_index(weight.size(0), "output channels");
  check_tensor("weight", weight, input, sampled.type, {weight.size(0), kernel[0], kernel[1], weight.size(3)});
  check_tensor("output", output, input, sampled.type,
               {input.size(0), s.out_height, s.out_width, weight.size(0)});
  if (bias) check_tensor("bias", *bias, input, sampled.type, {weight.size(0)});
  const Tensor weight_rows = aligned(weight);
  params.weight = weight_rows.const_data_ptr();
  params.bias = bias ? bias->const_data_ptr() : nullptr;
  params.output = output.mutable_data_ptr();
  bool taken = false;
  with_device(input.get_device_index(), [&](const Device& device) {
    taken = launch_fused_forward(params, element_type(sampled.type), device);
  });
  return taken;
}

}  // namespace
}  // namespace dcn::cuda

STABLE_TORCH_LIBRARY_IMPL(dcn_backbones, DCN_DISPATCH_KEY, library) {
  library.impl("_gather", TORCH_BOX(&dcn::cuda::gather_cuda));
  library.impl("_gather_backward", TORCH_BOX(&dcn::cuda::gather_backward_cuda));
  library.impl("_fused_forward", TORCH_BOX(&dcn::cuda::fused_forward_cuda));
}
