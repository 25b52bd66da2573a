// Checks of what the host sides of the operators are given; each error is one sentence.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace dcn {

inline void check(bool condition, const std::string& sentence) {
  if (!condition) throw std::runtime_error(sentence);
}

inline std::string shape_text(torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + ")";
}

inline void check_sizes(const std::string& name, const torch::stable::Tensor& tensor,
                        const std::vector<int64_t>& expected) {
  check(std::ranges::equal(tensor.sizes(), expected),
        name + " has shape " + shape_text(tensor.sizes()) + ", expected " + shape_text(expected));
}

}  // namespace dcn
