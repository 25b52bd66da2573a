"""Effective bin locations: where the bins of a RoI lie, and how much each of them matters.

Sources: Dai et al., "Deformable Convolutional Networks", 2017, Figure 6, the shifted bins; Zhu et al.,
"Deformable ConvNets v2", 2019, section 2.1, the gradient of the node with respect to the bins' locations.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from ..layers import DeformRoIPool, MultiScaleDeformRoIPool
from ..ops import deform_roi_pool
from .node import RoI
from .running import check_images, evaluating


@dataclass(frozen=True)
class BinLocations:
    """The ``K = kh*kw`` bins of one RoI, row by row, with positions ``(x, y)`` as in `record`.

    Attributes:
        box: ``(4,)`` in float64, left, upper, right and lower border of the RoI as positions.
        size: ``(2,)``, width and height of a bin, in pixels.
        positions: ``(K, 2)``, centres of the bins where they are pooled, in pixels.
        regular: ``(K, 2)``, the same with offsets of zero.
        weights: ``(K,)``, the mask; ones without modulation.
        strengths: ``(K,)``, length of the gradient of the node's response with respect to the bin's location:
            change of the response for each pixel that the bin moves.
    """

    box: Tensor
    size: Tensor
    positions: Tensor
    regular: Tensor
    weights: Tensor
    strengths: Tensor


def effective_bin_locations(model: nn.Module, image: Tensor, node: RoI) -> BinLocations:
    """Where a detector pools for a region, each bin with its strength.

    Plain pooling is deformable pooling whose offsets are zero, so that it has strengths too.

    Args:
        model: A detector that pools boxes by `MultiScaleDeformRoIPool` or torchvision's `MultiScaleRoIAlign`.
            The bins of maximum pooling lie on whole pixels, so that it has no gradient.
        image: ``(1, C, H, W)``, the backbone's input, on the model's device.
        node: The region; of its response, the mean of the vector.

    Raises:
        ValueError: When the model pools otherwise, is no detector, or the box is not in the image.
    """
    check_images(image, one=True)
    with evaluating(model), torch.enable_grad(), _noted_offsets(model) as found:
        response = node.responses(model, image.detach().requires_grad_()).mean()
        (raw,) = found
        (gradient,) = torch.autograd.grad(response, raw)
    pool = model.roi_heads.box_roi_pool
    gamma = pool.pool.gamma if _is_deformable(pool) else 1.0
    return _bins(node.box, tuple(pool.output_size), gamma, raw[0].detach(), gradient[0])


def _bins(
    box: tuple[float, float, float, float], bins: tuple[int, int], gamma: float, raw: Tensor, gradient: Tensor
) -> BinLocations:
    """Of what the branch says for the region, ``(2*K or 3*K,)``, and the gradient with respect to it."""
    raw, gradient = (values.cpu().double().view(-1, bins[0] * bins[1]).T for values in (raw, gradient))
    borders = torch.tensor(box, dtype=torch.float64) - 0.5  # a box counts from the corner of the first pixel
    extent = borders[2:] - borders[:2]
    size = extent / torch.tensor(bins[::-1])
    steps = torch.cartesian_prod(*(torch.arange(count) for count in bins)).flip(-1)  # (K, 2), x and y
    regular = borders[:2] + (steps + 0.5) * size
    reach = gamma * extent  # pixels for each unit of an offset
    return BinLocations(
        box=borders,
        size=size,
        positions=regular + raw[:, :2] * reach,
        regular=regular,
        weights=raw[:, 2].sigmoid() if raw.shape[1] > 2 else torch.ones_like(raw[:, 0]),
        strengths=(gradient[:, :2] / reach).norm(dim=-1),
    )


@contextmanager
def _noted_offsets(model: nn.Module):
    """A context that notes the offsets of the bins, ``(R, 2*K or more)``, as part of the graph."""
    found: list[Tensor] = []
    pool = getattr(getattr(model, "roi_heads", None), "box_roi_pool", None)
    if _is_deformable(pool):
        handle = pool.pool.offset_fc.register_forward_hook(_note_branch(found))
    elif isinstance(pool, MultiScaleRoIAlign) and not isinstance(pool, MultiScaleDeformRoIPool):
        handle = pool.register_forward_hook(_note_plain(found))
    elif pool is not None:
        kind = type(getattr(pool, "pool", pool)).__name__  # the layer within, which may be maximum pooling
        raise ValueError(
            f"boxes are pooled by {kind}; expected a deformable layer in MultiScaleDeformRoIPool "
            "or torchvision's MultiScaleRoIAlign."
        )
    else:  # no detector, which the node says
        handle = model.register_forward_hook(lambda *_: None)
    try:
        yield found
    finally:
        handle.remove()


def _is_deformable(pool: nn.Module | None) -> bool:
    return isinstance(pool, MultiScaleDeformRoIPool) and isinstance(pool.pool, DeformRoIPool)


def _note_branch(found: list[Tensor]):
    def note(branch: nn.Module, inputs: tuple, raw: Tensor) -> Tensor:
        found.append(raw if raw.requires_grad else raw.detach().requires_grad_())
        return found[-1]

    return note


def _note_plain(found: list[Tensor]):
    """A forward hook that pools one region again, as deformable pooling with offsets of zero does."""

    def note(pool: MultiScaleRoIAlign, inputs: tuple, output: Tensor) -> Tensor:
        features, (boxes,), _ = inputs
        levels = [features[name] for name in pool.featmap_names if name in features]
        level = int(pool.map_levels([boxes])[0]) if len(levels) > 1 else 0
        scale = pool.scales[level]
        found.append(output.new_zeros(1, 2 * pool.output_size[0] * pool.output_size[1]).requires_grad_())
        return deform_roi_pool(
            levels[level],
            [_as_aligned(boxes, scale)],
            tuple(pool.output_size),
            scale,
            pool.sampling_ratio,
            found[-1].view(1, 2, *pool.output_size),
            gamma=1.0,
        )

    return note


def _as_aligned(boxes: Tensor, scale: float) -> Tensor:
    """Boxes whose aligned pooling is torchvision's of a pyramid: half a pixel of the level further, at least
    a pixel of it large."""
    corner = boxes[:, :2]
    extent = (boxes[:, 2:] - corner).clamp(min=1 / scale)
    return torch.cat([corner, corner + extent], dim=1) + 0.5 / scale
