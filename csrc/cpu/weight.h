// The weight as the right-hand matrix of a product, in the panels that GemmKernels want.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "workspace.h"

namespace dcn::cpu {

using torch::stable::parallel_for;

enum class Direction { forward, backward };

enum class Groups { merged, apart };

// Groups narrower than a vector are merged into one with a block-diagonal weight: multiplying by zeros costs
// less than working on vectors that are mostly empty. Zero times infinity is NaN, though: where the left side
// of a product is not finite, its groups are kept apart.
struct MergedGroups {
  int64_t merged;                     // groups in one
  int64_t count;                      // of merged groups
  int64_t in_channels, out_channels;  // of a merged group

  MergedGroups(const DeformConv2dParams& p, int64_t lanes, Groups groups = Groups::merged) {
    const int64_t wider = std::max(p.group_channels(), p.group_out_channels());
    merged = groups == Groups::apart ? 1 : std::min(p.groups, std::max<int64_t>(1, lanes / wider));
    while (p.groups % merged) --merged;
    count = p.groups / merged;
    in_channels = merged * p.group_channels();
    out_channels = merged * p.group_out_channels();
  }
};

// Forward, the weight's depth is input channels and its columns output channels; backward, the other way
// round. A panel holds some columns of one merged group, for the taps of a run one after the other.
template <typename Element>
class WeightPanels {
 public:
  WeightPanels(const DeformConv2dParams& p, const MergedGroups& groups, Direction direction)
      : p_(p),
        groups_(groups),
        forward_(direction == Direction::forward),
        depth_(forward_ ? groups.in_channels : groups.out_channels),
        columns_(forward_ ? groups.out_channels : groups.in_channels),
        width_(kernels_.panel_width(columns_)) {}

  int64_t width() const { return width_; }
  int64_t count() const { return (columns_ + width_ - 1) / width_; }  // of one group
  int64_t columns(int64_t panel) const { return std::min(width_, columns_ - panel * width_); }

  // Elements of one tap.
  int64_t size() const {
    return (depth_ + kTogether<Element> - 1) / kTogether<Element> * kTogether<Element> * width_;
  }

  // Whether the weight's neighbours in memory are neighbours in depth too: packing a run of taps then reads
  // whole lines. Otherwise a line holds all taps of a channel, and they should be packed together.
  bool dense_depth() const { return depth_stride() == 1; }

  // Packs the taps of a run, each to where `place(tap)` says.
  template <typename Place>
  void pack(int64_t group, int64_t panel, TapRun taps, const Place& place) const {
    if (groups_.merged > 1 || columns(panel) < width_) {
      for (int64_t tap = taps.first; tap < taps.first + taps.count; ++tap) {
        std::fill_n(place(tap), size(), Element(0));
      }
    }
    const int64_t depth = depth_ / groups_.merged, step = dense_depth() ? depth : kLineDepth;
    for (int64_t part = 0; part < groups_.merged; ++part) {
      for (int64_t k = 0; k < depth; k += step) {
        for (int64_t tap = taps.first; tap < taps.first + taps.count; ++tap) {
          pack_block(group * groups_.merged + part, panel, tap, k, std::min(step, depth - k),
                     place(tap) + part * part_offset() + k * width_);
        }
      }
    }
  }

 private:
  static constexpr int64_t kLineDepth = 16;

  int64_t depth_stride() const { return forward_ ? p_.weight_strides.channel : p_.weight_strides.batch; }
  int64_t column_stride() const { return forward_ ? p_.weight_strides.batch : p_.weight_strides.channel; }

  // Parts are the groups that were merged; they lie on the diagonal.
  int64_t part_offset() const {
    return depth_ / groups_.merged * width_ + columns_ / groups_.merged * kTogether<Element>;
  }

  void pack_block(int64_t group, int64_t panel, int64_t tap, int64_t k, int64_t depth,
                  Element* packed) const {
    const Element* weight = static_cast<const Element*>(p_.weight) + p_.tap_offset(tap, p_.weight_strides) +
                            group * p_.group_out_channels() * p_.weight_strides.batch;
    kernels_.pack(weight + k * depth_stride() + panel * width_ * column_stride(), depth,
                  std::min(columns_ / groups_.merged, columns(panel)), depth_stride(), column_stride(),
                  width_, packed);
  }

  const DeformConv2dParams& p_;
  const GemmKernels<Element>& kernels_ = gemm_kernels<Element>();
  const MergedGroups groups_;
  const bool forward_;
  const int64_t depth_, columns_, width_;
};

// All panels, packed in parallel: [groups, runs, panels, taps of the run, panel].
template <typename Element>
class PackedWeight {
 public:
  PackedWeight(const WeightPanels<Element>& panels, const TapRuns& runs, int64_t groups)
      : panels_(panels),
        taps_(runs.taps),
        packed_(uninitialized<Element>(groups * panels.count() * taps_ * panels.size())) {
    parallel_for(0, groups * panels.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / panels.count(), panel = i % panels.count();
        panels.pack(group, panel, {0, taps_}, [&](int64_t tap) {
          const TapRun run = runs[tap / runs.length];
          return packed_.get() + index(group, panel, run) + (tap - run.first) * panels.size();
        });
      }
    });
  }

  const Element* panel(int64_t group, int64_t panel, TapRun taps) const {
    return packed_.get() + index(group, panel, taps);
  }

 private:
  int64_t index(int64_t group, int64_t panel, TapRun taps) const {
    return ((group * taps_ + taps.first) * panels_.count() + panel * taps.count) * panels_.size();
  }

  const WeightPanels<Element>& panels_;
  const int64_t taps_;
  const Buffer<Element> packed_;
};

}  // namespace dcn::cpu
