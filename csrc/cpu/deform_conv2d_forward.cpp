// Forward: gather a block of positions into columns, multiply by the weight, a run of taps at a time.
#include "products.h"

namespace dcn::cpu {
namespace {

// With fewer positions for each thread, or a larger weight, threads share a block and take panels: each reads
// and packs a part of the weight only, and nothing holds all of it packed.
constexpr int64_t kSharedPositions = 256;
constexpr int64_t kPackedBytes = 5 << 19;     // of the weight, a thread
constexpr int64_t kConvertedBytes = 2 << 20;  // of channels-last images a thread

// Work on one block of positions. Its inner loops are parallel too; inside a parallel region they run
// serially.
template <typename Element>
class ForwardBlock {
 public:
  using Real = Accumulate<Element>;

  ForwardBlock(const DeformConv2dParams& p, const Products<Element>& products, int64_t rows)
      : p_(p),
        products_(products),
        zero_row_(zeros<Element>(p.in_channels)),
        samples_(uninitialized<Sample<Real>>(rows * p.offset_groups * p.taps())),
        columns_(uninitialized<Element>(rows * runs_.length * p.in_channels)),
        sums_(uninitialized<Real>(sums_are_output() ? 0 : rows * p.out_channels)),
        narrowed_(uninitialized<Element>(kSumsAreElements ? 0 : rows * p.out_channels)) {}

  void run(int64_t first, int64_t rows) {
    parallel_for(0, rows, kMinimumRows / 2, [&](int64_t begin, int64_t end) {
      kernels_.locate(p_, first + begin, end - begin, samples(begin));
    });
    Real* sums = sums_.get();
    if constexpr (kSumsAreElements) {
      if (sums_are_output()) sums = static_cast<Element*>(p_.output) + first * p_.out_channels;
    }
    multiply(products_, rows, sums);
    if (products_.merged() && !all_finite(sums, rows * p_.out_channels)) {
      multiply(Products<Element>(p_, Direction::forward, runs_, Packing::ahead, Groups::apart), rows, sums);
    }
    if (!sums_are_output()) store(first, rows);
  }

 private:
  static constexpr bool kSumsAreElements = std::is_same_v<Element, Real>;

  bool sums_are_output() const { return kSumsAreElements && p_.layout == Layout::channels_last; }

  Sample<Real>* samples(int64_t row) { return samples_.get() + row * p_.offset_groups * p_.taps(); }

  void multiply(const Products<Element>& products, int64_t rows, Real* sums) {
    if (p_.bias) fill_with_bias(rows, sums);
    for (int64_t run = 0; run < runs_.count(); ++run) {
      const TapRun taps = runs_[run];
      parallel_for(0, rows, kMinimumRows / 2, [&](int64_t begin, int64_t end) {
        kernels_.gather(p_, samples(begin), taps, end - begin, zero_row_.get(),
                        columns_.get() + begin * taps.count * p_.in_channels);
      });
      parallel_for(0, products.panels(), 1, [&](int64_t begin, int64_t end) {
        const auto packed = uninitialized<Element>(products.panel_size(runs_));
        products.output(begin, end, columns_.get(), taps, rows, p_.bias || run > 0, packed.get(), sums);
      });
    }
  }

  void fill_with_bias(int64_t rows, Real* sums) const {
    const Real* bias = static_cast<const Real*>(p_.bias);
    for (int64_t row = 0; row < rows; ++row) std::copy_n(bias, p_.out_channels, sums + row * p_.out_channels);
  }

  // Image by image, as far as the rows reach into it.
  void store(int64_t first, int64_t rows) {
    Element* output = static_cast<Element*>(p_.output);
    if (p_.layout == Layout::channels_last) {
      return kernels_.narrow(sums_.get(), rows * p_.out_channels, output + first * p_.out_channels);
    }
    const Element* values = elements(rows);
    for (int64_t row = 0; row < rows;) {
      const int64_t image = (first + row) / p_.positions(), at = (first + row) % p_.positions();
      const int64_t count = std::min(rows - row, p_.positions() - at);
      // A few channels at a time: to write them all would take more pages than the processor keeps addresses
      // of.
      for (int64_t c = 0; c < p_.out_channels; c += 16) {
        kernels_.transpose(values + row * p_.out_channels + c, count,
                           std::min<int64_t>(16, p_.out_channels - c), p_.out_channels,
                           output + (image * p_.out_channels + c) * p_.positions() + at, p_.positions());
      }
      row += count;
    }
  }

  const Element* elements(int64_t rows) {
    if constexpr (kSumsAreElements) {
      return sums_.get();
    } else {
      kernels_.narrow(sums_.get(), rows * p_.out_channels, narrowed_.get());
      return narrowed_.get();
    }
  }

  const DeformConv2dParams& p_;
  const Products<Element>& products_;
  const SamplingKernels<Element>& kernels_ = sampling_kernels<Element>();
  const TapRuns runs_ = column_runs(p_);
  const Buffer<Element> zero_row_;
  const Buffer<Sample<Real>> samples_;
  const Buffer<Element> columns_;
  const Buffer<Real> sums_;
  const Buffer<Element> narrowed_;
};

template <typename Element>
void convert_to_channels_last(const DeformConv2dParams& p, Element* images) {
  const int64_t pixels = p.height * p.width, block = 256, blocks = (pixels + block - 1) / block;
  parallel_for(0, p.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / blocks * pixels * p.in_channels, at = i % blocks * block;
      const Element* from = static_cast<const Element*>(p.input) + image + at;
      sampling_kernels<Element>().transpose(from, p.in_channels, std::min(block, pixels - at), pixels,
                                            images + image + at * p.in_channels, p.in_channels);
    }
  });
}

// Images [first, first + count) of a contiguous batch.
template <typename Element>
DeformConv2dParams images(DeformConv2dParams p, int64_t first, int64_t count) {
  using Real = Accumulate<Element>;
  p.batch = count;
  p.input = static_cast<const Element*>(p.input) + first * p.in_channels * p.height * p.width;
  p.output = static_cast<Element*>(p.output) + first * p.out_channels * p.positions();
  p.offset = static_cast<const Real*>(p.offset) + first * p.offset_strides.batch;
  if (p.mask) p.mask = static_cast<const Real*>(p.mask) + first * p.mask_strides.batch;
  return p;
}

// How the positions are divided among the threads. The sums are the same either way.
template <typename Element>
class Forward {
 public:
  explicit Forward(const DeformConv2dParams& p)
      : row_bytes_(column_runs(p).length * p.in_channels * sizeof(Element) +
                   p.out_channels * sizeof(Accumulate<Element>)),
        shared_(share_blocks(p)),
        products_(p, Direction::forward, column_runs(p), shared_ ? Packing::on_the_fly : Packing::ahead) {}

  // By all threads, or inside a parallel region by this one.
  void run(const DeformConv2dParams& p, int64_t threads) const {
    const int64_t positions = p.batch * p.positions();
    const int64_t rows = shared_ ? std::min(positions, threads * block_rows(row_bytes_, positions))
                                 : even_block_rows(row_bytes_, positions, threads);
    const auto run_blocks = [&](int64_t begin, int64_t end) {
      ForwardBlock<Element> block(p, products_, rows);
      for (int64_t i = begin; i < end; ++i) block.run(i * rows, std::min(rows, positions - i * rows));
    };
    const int64_t blocks = (positions + rows - 1) / rows;
    if (shared_) return run_blocks(0, blocks);
    parallel_for(0, blocks, 1, run_blocks);
  }

  void run(const DeformConv2dParams& p) const {
    if (p.layout == Layout::channels_last) return run(p, threads_);
    const bool even = p.batch % threads_ == 0 || p.batch >= 4 * threads_;
    if (shared_ || !even) return run_contiguous(p, 0, p.batch, threads_);
    // Each thread converts what it works on itself: nobody waits, and a core's cache holds the images.
    parallel_for(0, p.batch, 1, [&](int64_t begin, int64_t end) { run_contiguous(p, begin, end, 1); });
  }

 private:
  void run_contiguous(const DeformConv2dParams& p, int64_t begin, int64_t end, int64_t threads) const {
    const int64_t size = p.height * p.width * p.in_channels;
    const int64_t fit = kConvertedBytes * threads / (size * sizeof(Element));
    const int64_t at_once = std::clamp<int64_t>(fit, 1, std::max<int64_t>(1, end - begin));
    const auto converted = uninitialized<Element>(at_once * size);
    for (int64_t first = begin; first < end; first += at_once) {
      DeformConv2dParams part = images<Element>(p, first, std::min(at_once, end - first));
      convert_to_channels_last(part, converted.get());
      part.input = converted.get();
      run(part, threads);
    }
  }

  bool share_blocks(const DeformConv2dParams& p) const {
    const int64_t positions = p.batch * p.positions();
    const int64_t weight_bytes = p.out_channels * p.group_channels() * p.taps() * sizeof(Element);
    if (positions <= kMinimumRows || weight_bytes > kPackedBytes * threads_) return true;
    return positions <= kSharedPositions * threads_ && p.out_channels >= 32 * threads_;
  }

  const int64_t threads_ = torch::stable::get_num_threads();
  const int64_t row_bytes_;
  const bool shared_;
  const Products<Element> products_;
};

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_conv2d_forward_cpu(const DeformConv2dParams& params) {
  cpu::with_element(params.element_type,
                    [&](auto element) { cpu::Forward<decltype(element)>(params).run(params); });
}
