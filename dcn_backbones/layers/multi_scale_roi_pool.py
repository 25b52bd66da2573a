"""Deformable RoI pooling from the levels of a feature pyramid, in place of torchvision's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import _filter_input, _setup_scales

from ..ops import roi_checks
from ..ops.autocast import cast_operands
from ..ops.memory_format import empty_strided_like
from .deform_roi_pool import DeformRoIPool


class MultiScaleDeformRoIPool(MultiScaleRoIAlign):
    """A deformable RoI pooling layer on a feature pyramid; torchvision's detectors take it as their own.

    Which level a box is pooled from, the scales of the levels and the call are those of
    `torchvision.ops.MultiScaleRoIAlign`: equation 1 of Lin et al., "Feature Pyramid Networks", 2017. One
    offset branch serves all levels, since offsets are relative to the size of the RoI::

        pool = MultiScaleDeformRoIPool(["0", "1", "2", "3"], ModulatedDeformRoIPool(256, 7, sampling_ratio=2))
        detector = torchvision.models.detection.FasterRCNN(backbone, num_classes=91, box_roi_pool=pool)

    One difference to know: torchvision pools from its pyramids with ``aligned=False``, half a pixel of the
    level further to the right and down, and makes RoIs at least a pixel large. This layer pools like
    `roi_align(aligned=True)`, as the papers do. So a detector trained with torchvision's pooling sees its
    features half a pixel of the level off.

    `torch.compile(fullgraph=True)` and `torch.export` take it as it is, with any number of boxes. How many of
    them a level gets depends on their values, where a compilation without ``fullgraph`` breaks the graph
    unless ``torch._dynamo.config.capture_dynamic_output_shape_ops`` is set.

    Args:
        featmap_names: Names of the feature maps to pool from, the finest first.
        pool: Layer that pools; its `spatial_scale` has to be 1, since each level has its own.
        canonical_scale: Side of the square, in pixels of the image, that `canonical_level` is for.
        canonical_level: Level of such a box; level k has ``2**-k`` pixels for each of the image.

    Raises:
        ValueError: When ``pool`` has a `spatial_scale` of its own.
    """

    def __init__(
        self,
        featmap_names: list[str],
        pool: DeformRoIPool,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        if pool.spatial_scale != 1.0:
            raise ValueError(
                f"pool has spatial_scale={pool.spatial_scale}, expected 1: the levels have their own."
            )
        super().__init__(
            featmap_names,
            pool.output_size,
            pool.sampling_ratio,
            canonical_scale=canonical_scale,
            canonical_level=canonical_level,
        )
        self.pool = pool

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Pool features for boxes.

        Args:
            x: Feature maps ``(N, in_channels, H, W)`` by name; names that are not pooled from are left alone.
            boxes: One ``(R_i, 4)`` for each image, each box ``[x1, y1, x2, y2]`` in pixels of the image.
            image_shapes: ``(height, width)`` of each image, in pixels. As in torchvision, those of the first
                call say which scale each level has.

        Returns:
            ``(R, in_channels, kh, kw)``, in the order of the boxes.
        """
        # Cast once here instead of twice in the operator.
        features = cast_operands(*_filter_input(x, self.featmap_names))
        if self.scales is None or self.map_levels is None:
            self.scales, self.map_levels = _setup_scales(
                features, image_shapes, self.canonical_scale, self.canonical_level
            )
        rois = roi_checks.as_tensor(features[0], boxes)
        if len(features) == 1:
            return self.pool.deform(lambda *bins: self.pool.sample(features[0], rois, self.scales[0], *bins))
        levels = self.map_levels(boxes)
        members = [torch.where(levels == level)[0] for level in range(len(features))]
        return self.pool.deform(lambda *bins: self._pool_levels(features, rois, members, *bins))

    def _pool_levels(
        self,
        features: Sequence[Tensor],
        rois: Tensor,
        members: list[Tensor],
        offset: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Pool each box from its level; one of no level, whose area is not a number, stays at zero."""
        parts = [
            self.pool.sample(
                level, rois[index], scale, *(None if bins is None else bins[index] for bins in (offset, mask))
            )
            for level, scale, index in zip(features, self.scales, members, strict=True)
        ]
        output = empty_strided_like(features[0], (rois.shape[0], *parts[0].shape[1:])).zero_()
        for index, part in zip(members, parts, strict=True):
            output[index] = part
        return output

    # torchvision's own would leave out the layer that pools.
    __repr__ = nn.Module.__repr__

    def extra_repr(self) -> str:
        return f"featmap_names={self.featmap_names}"
