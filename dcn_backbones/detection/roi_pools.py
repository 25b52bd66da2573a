"""The four ways from a region to its bins, as torchvision's detectors take them."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from ..layers import DeformRoIPool, ModulatedDeformRoIPool, MultiScaleDeformRoIPool
from ..layers.deform_roi_pool import Pool


class RoIMaxPool(nn.Module):
    """RoIpooling: the largest value in each bin of whole pixels, in the place of a deformable layer.

    Source: Girshick, "Fast R-CNN", 2015; the "RoIpooling" of DCNv2's Table 1. Nothing in it is learned.

    Args:
        output_size: Bins along each axis.
    """

    spatial_scale = 1.0
    sampling_ratio = -1

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = (output_size, output_size)

    def deform(self, pool: Pool) -> Tensor:
        """Pool once: there is nothing to deform."""
        return pool(None, None)

    def sample(self, input: Tensor, boxes: Tensor, spatial_scale: float, *_: None) -> Tensor:
        """torchvision's operator, in float32 where it knows no other."""
        pooled = roi_pool(input.float(), boxes.float(), self.output_size, spatial_scale)
        return pooled.to(input.dtype)


def make_roi_pool(
    kind: str, channels: int, levels: Sequence[str], output_size: int, sampling_ratio: int
) -> MultiScaleRoIAlign:
    """Pooling from the levels of a backbone.

    ``align`` is torchvision's own, ``aligned=False`` and half a pixel of the level off the others (see
    `layers.MultiScaleDeformRoIPool`), so that its detectors are ours.

    Args:
        kind: ``max``, ``align``, ``deform`` or ``modulated``.
        channels: Of the levels.
        levels: Names of the feature maps, the finest first.
        output_size: Bins along each axis.
        sampling_ratio: Sampling points of a bin along each axis; ``max`` has none.
    """
    if kind == "align":
        return MultiScaleRoIAlign([*levels], output_size, sampling_ratio)
    if kind == "max":
        return MultiScaleDeformRoIPool([*levels], RoIMaxPool(output_size))
    layer = DeformRoIPool if kind == "deform" else ModulatedDeformRoIPool
    return MultiScaleDeformRoIPool([*levels], layer(channels, output_size, sampling_ratio=sampling_ratio))
