// Where regions lie and where a bin samples along an axis.
#pragma once

#include <cstdint>
#include <vector>

#include "../bilinear.h"
#include "../deform_roi_pool.h"

namespace dcn::cpu {

// Of a bin along an axis, where the size of the region decides.
constexpr int64_t kMostPoints = 1 << 15;

// A product that rounds before it is added to something: a fused multiply-add would not, and other backends
// would fall on the other side of a border.
template <typename Real>
DCN_HOST_DEVICE Real rounded(Real product) {
#if defined(__x86_64__)
  __asm__("" : "+x"(product));
#elif defined(__aarch64__)
  __asm__("" : "+w"(product));
#else
  volatile Real stored = product;
  product = stored;
#endif
  return product;
}

// A region along one axis, in pixels.
template <typename Real>
struct RoIAxis {
  Real start, size, bin;
  int64_t points;  // of a bin
};

template <typename Real>
struct Region {
  int64_t image;  // -1: outside, and nothing else here is meaningful
  RoIAxis<Real> y, x;

  int64_t points() const { return y.points * x.points > 0 ? y.points * x.points : 1; }
};

// All regions of a call, and for every image the numbers of those on it, in order.
template <typename Real>
class Regions {
 public:
  explicit Regions(const DeformRoIPoolParams& p);

  const Region<Real>& operator[](int64_t number) const { return regions_[number]; }

  int64_t count(int64_t image) const { return first_[image + 1] - first_[image]; }
  const int64_t* of_image(int64_t image) const { return order_.data() + first_[image]; }

  int64_t images() const;  // that have regions

  // About how many pixels the bins of all regions look at, one bin of each in the place of all.
  double pixels_of_a_bin(const DeformRoIPoolParams& p) const;

 private:
  std::vector<Region<Real>> regions_;
  std::vector<int64_t> first_, order_;
};

}  // namespace dcn::cpu
