"""The error-bounded saliency region: the smallest part of an image that gives a node the same response.

Source: Zhu et al., "Deformable ConvNets v2", 2019, section 2.1, which finds it by masking the image
progressively; the details of its appendix are not given here but chosen:

- *Masked* pixels have the value ``fill``, by default the image's mean colour, which makes the weakest edges.
- The *error* of a region ``R`` is ``|r(R) - r| / |r|``: ``r`` the node's response to the image, a vector,
  ``r(R)`` that to the image masked outside of ``R``, ``|.|`` the Euclidean norm. A region is good when its
  error is at most ``bound``.
- The *search* starts with the whole image and goes from coarse cells to fine ones. In every round each cell
  of the region is masked alone, and the error that this makes ranks the cells. Putting them back in that
  order, the most important first, gives nested regions from none of the cells to all of them. A batch of
  these, evenly spread over all sizes, is tried; then one of the sizes between the smallest good one and the
  largest below it, and so on. The smallest good one is the region of the next round. A size of cells is left
  when a round takes away less than a fifth of the region, at the latest after two rounds.

So the region is good, and none of the smaller nested ones that the last round tried is. Others may be: the
error need not fall with every cell that is put back. All masked images of a step run as batches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .node import Node
from .running import check_images, evaluating

_ENOUGH = 0.8  # of the region left by a round: another would take as long and gain less
_ROUNDS = 2  # of each size of cells
_TRIED_AT_ONCE = 16  # nested regions

Progress = Callable[[int], object]


@dataclass(frozen=True)
class SaliencyRegion:
    """The smallest region that a search found.

    Attributes:
        mask: ``(H, W)`` in bool, the region, on the image's device.
        bound: The bound that was asked for.
        rank: ``(H, W)`` in int64: the nested region of ``m`` cells of the last round is ``rank < m``. Pixels
            in none of them have a rank of ``H*W``.
        nested: ``(T,)`` in int64, the numbers of cells up to the region's own that were tried, ascending.
        nested_errors: ``(T,)`` in float64, the relative errors of these regions. The last is the region's,
            and the only one of at most ``bound``.
        evaluations: How many masked images were run.
    """

    mask: Tensor
    bound: float
    rank: Tensor
    nested: Tensor
    nested_errors: Tensor
    evaluations: int

    @property
    def error(self) -> float:
        """Relative error of the response when all but the region is masked."""
        return float(self.nested_errors[-1])

    @property
    def share(self) -> float:
        """Share of the image that the region covers."""
        return float(self.mask.float().mean())


def saliency_region(
    model: nn.Module,
    image: Tensor,
    node: Node,
    bound: float = 0.2,
    cells: tuple[int, ...] = (7, 14),
    fill: Tensor | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> SaliencyRegion:
    """The smallest region of an image, among those tried, that leaves a node's response within a bound.

    Args:
        model: Any network, on any device; it runs in evaluation mode and is left as it was.
        image: ``(1, C, H, W)``, on the model's device.
        node: What is looked at; here its whole response counts, not the mean.
        bound: Largest relative error of the response, above 0 and below 1.
        cells: Sizes of cells, the coarsest first: their number along each side of the image.
        fill: Value of masked pixels, ``(C, 1, 1)`` or ``(C, H, W)``, in units of the normalised input; the
            mean of the image's when None.
        batch_size: Masked images to run at once.
        progress: Called after every batch with the number of masked images in it.

    Raises:
        ValueError: When ``bound`` or ``cells`` is out of range, ``image`` has another shape, the response to
            it is zero, or the node is not in the model.
    """
    check_images(image, one=True)
    _check_settings(bound, cells, image)
    with evaluating(model), torch.inference_mode():
        fill = image[0].mean((1, 2), keepdim=True) if fill is None else fill
        errors = _Errors(model, image, node, fill, batch_size, progress)
        region, error = torch.ones(image.shape[2:], dtype=torch.bool, device=image.device), 0.0
        for labels in (_grid(number, region) for number in cells):
            for _ in range(_ROUNDS):
                rank, sizes, tried = _round(errors, region, error, labels, bound)
                before, region, error = region.sum(), rank < sizes[-1], float(tried[-1])
                if not region.any() or region.sum() > _ENOUGH * before:
                    break
            if not region.any():
                break
    # Clones of tensors made in inference mode are normal ones outside of it.
    return SaliencyRegion(
        region.clone(), bound, rank.clone(), sizes.clone(), tried.clone(), errors.evaluations
    )


class _Errors:
    """Relative errors of a node's response to an image, masked outside of regions."""

    def __init__(
        self,
        model: nn.Module,
        image: Tensor,
        node: Node,
        fill: Tensor,
        batch_size: int,
        progress: Progress | None,
    ) -> None:
        self._model, self._image, self._node, self._fill = model, image, node, fill
        self.batch_size, self._progress = batch_size, progress
        self.evaluations = 0
        self._response = node.responses(model, image).double()
        self._scale = self._response.norm()
        if not self._scale > 0:
            raise ValueError(f"{node} has no response to the image; expected one other than zero.")

    def __call__(self, regions: Tensor) -> Tensor:
        """Of regions ``(R, H, W)``: ``(R,)`` in float64."""
        return torch.cat([self._batch(batch) for batch in regions.split(self.batch_size)])

    def _batch(self, regions: Tensor) -> Tensor:
        images = torch.where(regions[:, None], self._image, self._fill)
        images = images.contiguous(memory_format=torch.channels_last)
        difference = self._node.responses(self._model, images).double() - self._response
        self.evaluations += len(regions)
        if self._progress:
            self._progress(len(regions))
        return (difference.norm(dim=1) / self._scale).cpu()


def _round(
    errors: _Errors, region: Tensor, error: float, labels: Tensor, bound: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rank the cells of a region and look for the smallest good one of those nested in it.

    Args:
        errors: Gives the relative errors of regions.
        region: ``(H, W)``, good itself.
        error: The relative error at which it was found good.
        labels: ``(H, W)``, the cell of each pixel.
        bound: Largest relative error of a good region.

    Returns:
        ``rank``, ``nested`` and ``nested_errors``, as in `SaliencyRegion`.
    """
    cells = labels[region].unique()
    importance = errors(region & (labels != cells[:, None, None]))
    order = cells[importance.to(cells.device).argsort(descending=True)]
    ranks = torch.full((int(labels.max()) + 1,), labels.numel(), device=labels.device)
    ranks[order] = torch.arange(len(order), device=labels.device)
    rank = torch.where(region, ranks[labels], labels.numel())
    tried = _smallest_good(
        lambda sizes: errors(rank < sizes[:, None, None].to(rank.device)), {len(cells): error}, bound
    )
    sizes = sorted(tried)
    return rank, torch.tensor(sizes), torch.tensor([tried[size] for size in sizes], dtype=torch.float64)


def _smallest_good(
    error_of: Callable[[Tensor], Tensor], known: dict[int, float], bound: float
) -> dict[int, float]:
    """The sizes of nested regions that were tried, up to the smallest good one, with their errors.

    Args:
        error_of: Errors of the regions of some sizes, ``(T,)``.
        known: Size of the region in which the others are nested, which is good, with its error.
        bound: Largest relative error of a good region.
    """
    tried = dict(known)
    while len(sizes := _sizes_to_try(tried, bound)):  # none of which was tried before, so that it ends
        tried.update(zip(sizes.tolist(), error_of(sizes).tolist(), strict=True))
    smallest = _smallest(tried, bound)
    return {size: error for size, error in tried.items() if size <= smallest}


def _sizes_to_try(tried: dict[int, float], bound: float) -> Tensor:
    """Evenly spread between the smallest good size and the largest one below it that was tried, ``(T,)``."""
    high = _smallest(tried, bound)
    low = max((size for size in tried if size < high), default=-1) + 1
    return torch.linspace(low, high - 1, min(_TRIED_AT_ONCE, high - low)).round().long().unique()


def _smallest(tried: dict[int, float], bound: float) -> int:
    return min(size for size, error in tried.items() if error <= bound)


def _grid(number: int, region: Tensor) -> Tensor:
    """Numbers of the cells that pixels are in, ``(H, W)``, with ``number`` cells along each side."""
    rows, columns = (torch.arange(n, device=region.device) * number // n for n in region.shape)
    return rows[:, None] * number + columns


def _check_settings(bound: float, cells: tuple[int, ...], image: Tensor) -> None:
    if not 0 < bound < 1:
        raise ValueError(f"bound is {bound:g}; expected a relative error above 0 and below 1.")
    largest = min(image.shape[2:])
    if not cells or not all(1 <= number <= largest for number in cells):
        raise ValueError(f"cells are {cells}; expected numbers along a side, from 1 to {largest}.")
