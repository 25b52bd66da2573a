// The matrix products of deformable convolution in bfloat16, on torch's kernels (oneDNN), dispatcher aside.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/tensor.h>

#include "packed_products.h"

namespace dcn::cpu {

// A batch of matrices in memory, [groups, rows, columns] with element strides.
struct Matrices {
  const BFloat16* data;
  int64_t sizes[3];
  int64_t strides[3];

  Matrices transposed() const {
    return {data, {sizes[0], sizes[2], sizes[1]}, {strides[0], strides[2], strides[1]}};
  }

  torch::stable::Tensor tensor() const {
    return torch::stable::from_blob(const_cast<BFloat16*>(data), {sizes, 3}, {strides, 3},
                                    torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                    torch::headeronly::ScalarType::BFloat16);
  }
};

// The same three products as PackedProducts.
class TorchProducts {
 public:
  TorchProducts(const DeformConv2dParams& p, Direction) : p_(p) {}

  void output(const BFloat16* columns, int64_t first, int64_t rows) const {
    const Matrices output = output_matrices(p_.output, first, rows);
    const auto out = output.tensor(), a = column_matrices(columns, rows).tensor();
    const auto b = weight_matrices(p_.weight).transposed().tensor();
    if (!p_.bias) return check(aoti_torch_cpu_bmm_out(out.get(), a.get(), b.get()));
    Matrices bias = output;
    bias.data = static_cast<const BFloat16*>(p_.bias);
    bias.strides[1] = 0;
    check(aoti_torch_cpu_baddbmm_out(out.get(), bias.tensor().get(), a.get(), b.get(), 1.0, 1.0));
  }

  void grad_columns(int64_t first, int64_t rows, BFloat16* grad_columns) const {
    check(aoti_torch_cpu_bmm_out(column_matrices(grad_columns, rows).tensor().get(),
                                 output_matrices(p_.grad_output, first, rows).tensor().get(),
                                 weight_matrices(p_.weight).tensor().get()));
  }

  // The block's own product is bfloat16, the sum over blocks float32.
  void grad_weight(const BFloat16* columns, int64_t first, int64_t rows, float* grad_weight,
                   Buffer<BFloat16>& scratch) const {
    const int64_t numel = p_.out_channels * p_.taps() * p_.group_channels();
    if (!scratch) scratch = uninitialized<BFloat16>(numel);
    const BFloat16* block = scratch.get();
    check(aoti_torch_cpu_bmm_out(weight_matrices(block).tensor().get(),
                                 output_matrices(p_.grad_output, first, rows).transposed().tensor().get(),
                                 column_matrices(columns, rows).tensor().get()));
    torch::stable::parallel_for(0, numel, 1 << 16, [&](int64_t begin, int64_t end) {
      sampling_kernels<BFloat16>().add(block + begin, end - begin, grad_weight + begin);
    });
  }

 private:
  static void check(AOTITorchError error) { TORCH_ERROR_CODE_CHECK(error); }

  Matrices column_matrices(const BFloat16* columns, int64_t rows) const {
    const int64_t length = p_.taps() * p_.group_channels();
    return {columns, {p_.groups, rows, length}, {length, p_.column_length(), 1}};
  }

  Matrices output_matrices(const void* output, int64_t first, int64_t rows) const {
    const int64_t channels = p_.out_channels / p_.groups;
    const auto* data = static_cast<const BFloat16*>(output) + first * p_.out_channels;
    return {data, {p_.groups, rows, channels}, {channels, p_.out_channels, 1}};
  }

  Matrices weight_matrices(const void* weight) const {
    const int64_t channels = p_.out_channels / p_.groups, length = p_.taps() * p_.group_channels();
    return {
        static_cast<const BFloat16*>(weight), {p_.groups, channels, length}, {channels * length, length, 1}};
  }

  const DeformConv2dParams& p_;
};

template <typename Element>
using Products =
    std::conditional_t<std::is_same_v<Element, BFloat16>, TorchProducts, PackedProducts<Element>>;

}  // namespace dcn::cpu
