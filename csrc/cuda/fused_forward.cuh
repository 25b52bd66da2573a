// Forward for half types as one implicit matrix product: columns are gathered into shared memory, a chunk of
// channels of one tap at a time, and multiplied there by the tensor cores; the sums stay in registers.
//
// While a chunk is multiplied, the corners of the next one are on their way to registers and its weight to
// shared memory. Chunks of one tap after the other come from the same pixels, which stay in the first-level
// cache.
#pragma once

#include "samples.cuh"

namespace dcn::cuda {

constexpr int kFusedThreads = 256;
constexpr int kFusedWarps = kFusedThreads / kWarpLanes;
constexpr int kChunk = 64;  // input channels that a tile has in a row
constexpr int kRowBytes = kChunk * 2;
constexpr int kRowVectors = kChunk / 8;  // of 16 bytes
constexpr int kDepth = 16;               // channels that one matrix instruction multiplies
constexpr int kPaddedBytes = 16;         // at the end of a row of the output tile, against bank conflicts

// What a block computes: kRows_ output positions by kColumns_ output channels, by warps in a grid kWarpsDown
// high. A diagonal tile belongs to groups narrower than a chunk: it multiplies what lies in one group only.
template <int kRows_, int kColumns_, int kWarpsDown, bool kDiagonal_>
struct FusedTile {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr bool kDiagonal = kDiagonal_;
  static constexpr int kWarpsAcross = kFusedWarps / kWarpsDown;
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpColumns = kColumns / kWarpsAcross;
  static constexpr int kRowTiles = kWarpRows / 16, kColumnPairs = kWarpColumns / 16;
  static constexpr int kGathered =
      kRows * kRowVectors / kFusedThreads;        // vectors of a chunk that a thread gathers
  static constexpr int kParts = kChunk / kDepth;  // of a step
  static constexpr int kInFlight = (kGathered + kParts - 1) / kParts;  // vectors that it fetches in a part
  static_assert(kGathered * kFusedThreads == kRows * kRowVectors);

  static constexpr int kColumnsBytes = kRows * kChunk * 2, kWeightBytes = kColumns * kChunk * 2;
  static constexpr int kOutputRowBytes = kColumns * 2 + kPaddedBytes;
  static_assert(kRows * kOutputRowBytes <= 2 * (kColumnsBytes + kWeightBytes));

  static constexpr int64_t shared_bytes(int taps) {
    return static_cast<int64_t>(kRows) * taps * sizeof(Corners<float>) + 2 * (kColumnsBytes + kWeightBytes);
  }
};

// Where vector `vector` of a row is in a tile of rows of 128 bytes, in bytes. Rows differ in the order of
// their vectors, so that one vector of eight rows, like eight vectors of one row, comes from all banks. Rows
// that are a multiple of eight apart have the same order.
DCN_DEVICE int swizzled(int row, int vector) {
  return (row * kRowVectors + (vector ^ row % kRowVectors)) * 16;
}

template <typename Element, typename Tile>
class FusedBlock {
 public:
  static constexpr bool kBFloat16 = std::is_same_v<Element, BFloat16>;

  DCN_DEVICE explicit FusedBlock(const FusedParams& params)
      : p(params),
        s(params.sampling),
        lane(thread_index() % kWarpLanes),
        warp_row(thread_index() / kWarpLanes / Tile::kWarpsAcross * Tile::kWarpRows),
        warp_column(thread_index() / kWarpLanes % Tile::kWarpsAcross * Tile::kWarpColumns) {
    const int column_blocks = (p.out_channels + Tile::kColumns - 1) / Tile::kColumns;
    first_row = block_index() / column_blocks * Tile::kRows;
    first_column = block_index() % column_blocks * Tile::kColumns;
    group_channels = s.channels / p.groups;
    weight_stride = s.taps() * group_channels;
    first_channel =
        Tile::kDiagonal ? first_column : first_column / (p.out_channels / p.groups) * group_channels;
    const int end = first_channel + (Tile::kDiagonal ? kChunk : group_channels);
    last_channel = end < s.channels ? end : s.channels;

    corners = static_cast<Corners<float>*>(shared_memory());
    columns = reinterpret_cast<char*>(corners + Tile::kRows * s.taps());
    weights = columns + 2 * Tile::kColumnsBytes;
  }

  DCN_DEVICE void run() {
    Step step{first_channel, 0};
    Vector<Element, 8> fetched[Tile::kInFlight][4];
    locate_all(step);
    copy_weight(step, 0);
#pragma unroll 1
    for (int part = 0; part < Tile::kParts; ++part) {
      fetch_part(step, part, fetched);
      interpolate_part(step, part, fetched, 0);
    }
    for (int buffer = 0; step.channel < last_channel; buffer = 1 - buffer) {
      wait_for_copies();
      synchronize_block();  // this step's tiles are there, and nobody reads those of the step before
      const Step next =
          step.tap + 1 < s.taps() ? Step{step.channel, step.tap + 1} : Step{step.channel + kChunk, 0};
      const bool more = next.channel < last_channel;
      if (more && next.tap == 0 && offset_group(next) != offset_group(step)) locate_all(next);
      if (more) copy_weight(next, 1 - buffer);
#pragma unroll 1  // few vectors in flight for each thread: more would not leave registers enough
      for (int part = 0; part < Tile::kParts; ++part) {
        if (more) fetch_part(next, part, fetched);
        multiply(part, buffer);
        if (more) interpolate_part(next, part, fetched, 1 - buffer);
      }
      step = next;
    }
    store();
  }

 private:
  struct Step {
    int channel, tap;
  };

  DCN_DEVICE int offset_group(const Step& step) const {
    return step.channel / (s.channels / s.offset_groups);
  }

  // The corners of all positions and taps, for the offset group of the step.
  DCN_DEVICE void locate_all(const Step& step) {
    for (int i = thread_index(); i < Tile::kRows * s.taps(); i += kFusedThreads) {
      const int tap = i / Tile::kRows, row = first_row + i % Tile::kRows;
      Corners<float> outside{{kOutside, kOutside, kOutside, kOutside}, {0, 0, 0, 0}};
      corners[i] = row < s.rows
                       ? locate<float>(s, row, position_of(s, row), offset_group(step) * s.taps() + tap)
                       : outside;
    }
    synchronize_block();
  }

  // Starts the copy of the weight's rows, one for each output channel. What is not of the channel's own
  // group, or beyond the last channel, is zero.
  DCN_DEVICE void copy_weight(const Step& step, int buffer) const {
    constexpr int kRowsAtOnce = kFusedThreads / kRowVectors;
    const int first = thread_index() / kRowVectors, vector = thread_index() % kRowVectors;
    char* shared = weights + buffer * Tile::kWeightBytes + swizzled(first, vector);
    const Element* weight = static_cast<const Element*>(p.weight) + step.tap * group_channels;
#pragma unroll
    for (int i = 0; i < Tile::kColumns / kRowsAtOnce; ++i) {
      const int column = first_column + first + i * kRowsAtOnce;
      const int group_first = Tile::kDiagonal ? column & -group_channels : first_channel;
      const int in_group = step.channel + vector * 8 - group_first;
      const bool inside = column < p.out_channels && in_group >= 0 && in_group < group_channels;
      const int64_t index = static_cast<int64_t>(column) * weight_stride + in_group;
      copy_async(shared + i * kRowsAtOnce * kRowBytes, weight + (inside ? index : 0), inside);
    }
  }

  // Vector i of those that this thread gathers: its row in the tile, and its vector in the row.
  DCN_DEVICE int gathered_row(int i) const { return (thread_index() + i * kFusedThreads) / kRowVectors; }
  DCN_DEVICE int gathered_vector() const { return thread_index() % kRowVectors; }

  DCN_DEVICE void fetch(const Step& step, int i, Vector<Element, 8> fetched[4]) const {
    const int channel = step.channel + gathered_vector() * 8;
    int pixel[4] = {kOutside, kOutside, kOutside, kOutside};
    if (channel < last_channel)
      memcpy(pixel, corners[step.tap * Tile::kRows + gathered_row(i)].pixel, sizeof pixel);
    load_corners(s, pixel, channel, fetched);
  }

  DCN_DEVICE void interpolate(const Step& step, int i, const Vector<Element, 8> fetched[4],
                              int buffer) const {
    const int row = gathered_row(i);
    const auto sum = weighted_sum(fetched, corners[step.tap * Tile::kRows + row].weight);
    store_vector(element_at(columns + buffer * Tile::kColumnsBytes + swizzled(row, gathered_vector())), sum);
  }

  using Fetched = Vector<Element, 8>[Tile::kInFlight][4];

  DCN_DEVICE void fetch_part(const Step& step, int part, Fetched& fetched) const {
#pragma unroll
    for (int i = 0; i < Tile::kInFlight; ++i) {
      const int vector = part * Tile::kInFlight + i;
      if (vector < Tile::kGathered) fetch(step, vector, fetched[i]);
    }
  }

  DCN_DEVICE void interpolate_part(const Step& step, int part, const Fetched& fetched, int buffer) const {
#pragma unroll
    for (int i = 0; i < Tile::kInFlight; ++i) {
      const int vector = part * Tile::kInFlight + i;
      if (vector < Tile::kGathered) interpolate(step, vector, fetched[i], buffer);
    }
  }

  // Whether columns [column, column + width) and channels [channel, channel + width) of the tile, both
  // multiples of width, have a group in common.
  DCN_DEVICE bool meets(int column, int channel, int width) const {
    const int size = group_channels > width ? group_channels : width;
    return !Tile::kDiagonal || (column ^ channel) < size;
  }

  // Part `depth` of the chunk, 16 channels.
  DCN_DEVICE void multiply(int depth, int buffer) {
    const char* left_rows =
        columns + buffer * Tile::kColumnsBytes + swizzled(warp_row + lane % 16, depth * 2 + lane / 16);
    const char* right_rows = weights + buffer * Tile::kWeightBytes +
                             swizzled(warp_column + lane % 8 + lane / 16 * 8, depth * 2 + lane / 8 % 2);
    uint32_t left[Tile::kRowTiles][4];
#pragma unroll
    for (int i = 0; i < Tile::kRowTiles; ++i) load_matrices(left[i], left_rows + i * 16 * kRowBytes);
#pragma unroll
    for (int j = 0; j < Tile::kColumnPairs; ++j) {
      const int column = warp_column + j * 16;
      if (!meets(column, depth * kDepth, 16)) continue;
      uint32_t right[4];
      load_matrices(right, right_rows + j * 16 * kRowBytes);
#pragma unroll
      for (int i = 0; i < Tile::kRowTiles; ++i) {
        multiply_tile(sums[i][2 * j], left[i], right, column, depth * kDepth);
        multiply_tile(sums[i][2 * j + 1], left[i], right + 2, column + 8, depth * kDepth);
      }
    }
  }

  // Groups are never multiplied by zeros in the place of others: infinities and NaN would reach into them.
  DCN_DEVICE void multiply_tile(float sum[4], const uint32_t left[4], const uint32_t right[2], int column,
                                int channel) const {
    if constexpr (Tile::kDiagonal) {
      if (meets(column, channel, 8)) multiply_8<kBFloat16, 0>(sum, left, right);
      if (meets(column, channel + 8, 8)) multiply_8<kBFloat16, 1>(sum, left, right);
    } else {
      multiply_16<kBFloat16>(sum, left, right);
    }
  }

  // Through shared memory, where the tiles were, so that global memory is written 16 bytes at a time.
  DCN_DEVICE void store() const {
    synchronize_block();  // the last product is done
#pragma unroll
    for (int j = 0; j < 2 * Tile::kColumnPairs; ++j) {
      const int column = warp_column + j * 8 + lane % 4 * 2;
      const bool biased = p.bias && first_column + column < p.out_channels;
      const Element* bias = static_cast<const Element*>(p.bias) + first_column + column;
      const float bias_0 = biased ? widen(bias[0]) : 0.0f, bias_1 = biased ? widen(bias[1]) : 0.0f;
#pragma unroll
      for (int i = 0; i < 2 * Tile::kRowTiles; ++i) {
        const float* pair = sums[i / 2][j] + i % 2 * 2;
        Vector<Element, 2> result;
        narrow_pair(pair[0] + bias_0, pair[1] + bias_1, result, 0);
        const int row = warp_row + i * 8 + lane / 4;
        store_vector(element_at(columns + row * Tile::kOutputRowBytes + column * 2), result);
      }
    }
    synchronize_block();
    constexpr int kVectors = Tile::kColumns / 8;
    for (int i = thread_index(); i < Tile::kRows * kVectors; i += kFusedThreads) {
      const int row = i / kVectors, column = i % kVectors * 8;
      if (first_row + row >= s.rows || first_column + column >= p.out_channels) continue;
      Element* output = static_cast<Element*>(p.output) +
                        static_cast<int64_t>(first_row + row) * p.out_channels + first_column + column;
      const char* result = columns + row * Tile::kOutputRowBytes + column * 2;
      store_vector(output, *reinterpret_cast<const Vector<Element, 8>*>(result));
    }
  }

  static DCN_DEVICE Element* element_at(char* address) { return reinterpret_cast<Element*>(address); }

  const FusedParams& p;
  const Sampling& s;
  const int lane, warp_row, warp_column;
  int first_row, first_column;      // of the block's tile in the output
  int group_channels;               // input channels of a group
  int weight_stride;                // elements of an output channel
  int first_channel, last_channel;  // that the tile's output channels see
  Corners<float>* corners;          // [K, kRows], shared memory like the tiles, of which there are two each
  char* columns;                    // [kRows, kChunk], swizzled
  char* weights;                    // [kColumns, kChunk], swizzled
  float sums[Tile::kRowTiles][2 * Tile::kColumnPairs][4] = {};
};

template <typename Element, typename Tile>
DCN_DEVICE void fused_forward(const FusedParams& p) {
#if DCN_HAS_TENSOR_TILES
  FusedBlock<Element, Tile>(p).run();
#endif
}

}  // namespace dcn::cuda
