// Matrix products of bfloat16 on x86-64 processors with AMX: tiles of 16 x 16 sums, 32 steps of depth at a
// time.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,amx-tile,amx-bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,amx-tile,amx-bf16")
#endif

namespace dcn::cpu {

DCN_DECLARE_KERNELS(avx512_bf16)

namespace amx {

constexpr int64_t kTileRows = 16, kTileColumns = 16;
constexpr int64_t kTileSteps = 16;  // of depth, two elements each

// What the processor reads: shapes of its eight tiles. 0 to 3 are sums (upper left, upper right, lower left,
// lower right), 4 and 5 rows of the left matrix, 6 and 7 columns of the right one.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {};

  TileShapes(int64_t upper, int64_t lower) {
    rows[0] = rows[1] = rows[4] = static_cast<uint8_t>(upper);
    rows[2] = rows[3] = rows[5] = static_cast<uint8_t>(lower);
    rows[6] = rows[7] = kTileSteps;
  }
};

// Sums of up to 32 rows and one panel, into dense memory or c; the shapes are loaded.
template <bool Lower, bool Right>
void multiply_tiles(const Matrix<BFloat16>& a, const BFloat16* packed, bool accumulate, float* c,
                    int64_t c_stride) {
  constexpr int64_t panel = Right ? 2 * kTileColumns : kTileColumns;
  constexpr int64_t packed_stride = panel * kTogether<BFloat16> * sizeof(BFloat16);
  const int64_t a_stride = a.row_stride * sizeof(BFloat16), sums_stride = c_stride * sizeof(float);
  float* lower = c + kTileRows * c_stride;
  _tile_zero(0);
  if constexpr (Right) _tile_zero(1);
  if constexpr (Lower) _tile_zero(2);
  if constexpr (Lower && Right) _tile_zero(3);
  if (accumulate) {
    _tile_loadd(0, c, sums_stride);
    if constexpr (Right) _tile_loadd(1, c + kTileColumns, sums_stride);
    if constexpr (Lower) _tile_loadd(2, lower, sums_stride);
    if constexpr (Lower && Right) _tile_loadd(3, lower + kTileColumns, sums_stride);
  }
  for (int64_t segment = 0; segment < a.segments; ++segment) {
    const BFloat16* left = a.data + segment * a.segment_stride;
    for (int64_t k = 0; k < a.depth; k += kTileSteps) {
      _tile_loadd(4, left, a_stride);
      if constexpr (Lower) _tile_loadd(5, left + kTileRows * a.row_stride, a_stride);
      _tile_loadd(6, packed, packed_stride);
      if constexpr (Right) _tile_loadd(7, packed + kTileColumns * kTogether<BFloat16>, packed_stride);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (Right) _tile_dpbf16ps(1, 4, 7);
      if constexpr (Lower) _tile_dpbf16ps(2, 5, 6);
      if constexpr (Lower && Right) _tile_dpbf16ps(3, 5, 7);
      left += kTileSteps * kTogether<BFloat16>;
      packed += kTileSteps * kTogether<BFloat16> * panel;
    }
  }
  _tile_stored(0, c, sums_stride);
  if constexpr (Right) _tile_stored(1, c + kTileColumns, sums_stride);
  if constexpr (Lower) _tile_stored(2, lower, sums_stride);
  if constexpr (Lower && Right) _tile_stored(3, lower + kTileColumns, sums_stride);
}

inline void multiply_rows(const Matrix<BFloat16>& a, int64_t rows, int64_t panel, const BFloat16* packed,
                          bool accumulate, float* c, int64_t c_stride) {
  const bool right = panel > kTileColumns;
  const auto tiles = rows > kTileRows ? (right ? multiply_tiles<true, true> : multiply_tiles<true, false>)
                                      : (right ? multiply_tiles<false, true> : multiply_tiles<false, false>);
  tiles(a, packed, accumulate, c, c_stride);
}

// A panel at the right edge goes through a buffer of full width.
inline void multiply_edge(const Matrix<BFloat16>& a, int64_t rows, int64_t columns, int64_t panel,
                          const BFloat16* packed, bool accumulate, float* c, int64_t c_stride) {
  float buffer[4 * kTileRows * kTileColumns];
  multiply_rows(a, rows, panel, packed, false, buffer, panel);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) {
      const float initial = accumulate ? c[row * c_stride + i] : 0;
      c[row * c_stride + i] = initial + buffer[row * panel + i];
    }
  }
}

void multiply(const Matrix<BFloat16>& matrix, int64_t rows, int64_t columns, int64_t panel,
              const BFloat16* packed, bool accumulate, float* c, int64_t c_stride) {
  if (matrix.depth_stride != kTogether<BFloat16> || matrix.depth % kTileSteps) {
    return avx512_bf16::gemm_kernels<BFloat16>().multiply(matrix, rows, columns, panel, packed, accumulate, c,
                                                          c_stride);
  }
  Matrix<BFloat16> a = matrix;
  for (int64_t row = 0; row < rows; row += 2 * kTileRows) {
    const int64_t count = minimum(2 * kTileRows, rows - row);
    if (row == 0 || count < 2 * kTileRows) {
      const TileShapes shapes(minimum(count, kTileRows), maximum(count - kTileRows, 1));
      _tile_loadconfig(&shapes);
    }
    if (columns < panel) {
      multiply_edge(a, count, columns, panel, packed, accumulate, c, c_stride);
    } else {
      multiply_rows(a, count, panel, packed, accumulate, c, c_stride);
    }
    a.data += count * a.row_stride;
    c += count * c_stride;
  }
  _tile_release();
}

const GemmKernels<BFloat16>& gemm_kernels() {
  static const GemmKernels<BFloat16> table = [] {
    GemmKernels<BFloat16> kernels = avx512_bf16::gemm_kernels<BFloat16>();
    kernels.multiply = multiply;
    return kernels;
  }();
  return table;
}

}  // namespace amx
}  // namespace dcn::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
