"""Where a ResNet is deformable: which of its 3x3 convolutions are replaced, and the blocks that do it."""

from collections.abc import Callable, Iterable, Sequence

from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from ..layers import DeformConv2d

Block = type[BasicBlock] | type[Bottleneck]

# The 3x3 convolutions of a block, in the order of the computation.
_SPATIAL_CONVS: dict[Block, tuple[str, ...]] = {BasicBlock: ("conv1", "conv2"), Bottleneck: ("conv2",)}

# The papers call the first stage conv2; timm calls it layer1.
_FIRST_STAGE = 2


class StageBlocks:
    """Stands where timm's ResNet expects the block class of one stage, and makes the stage's blocks in turn.

    Args:
        block: timm's block class.
        placement: For each block of the stage, the names of its convolutions to replace.
        make_layer: Makes the deformable layer from the plain convolution that timm has built.
    """

    def __init__(
        self,
        block: Block,
        placement: Iterable[Sequence[str]],
        make_layer: Callable[[nn.Conv2d], DeformConv2d],
    ) -> None:
        self.expansion = block.expansion
        self._block = block
        self._placement = iter(placement)
        self._make_layer = make_layer

    def __call__(self, *args, **kwargs) -> BasicBlock | Bottleneck:
        block = self._block(*args, **kwargs)
        for name in next(self._placement):
            setattr(block, name, self._make_layer(getattr(block, name)))
        return block


def plan_placement(
    block: Block,
    depths: Sequence[int],
    deform_stages: Sequence[int] | None,
    deform_last: int | None,
) -> list[list[tuple[str, ...]]]:
    """For each stage and each of its blocks, the names of the convolutions that become deformable.

    Args:
        block: timm's block class.
        depths: Number of blocks of each stage.
        deform_stages: Stages that are deformable throughout, by the papers' names: 2 (conv2) to 5 (conv5).
        deform_last: Instead, how many of the network's last 3x3 convolutions are deformable.

    Raises:
        ValueError: When ``block`` is none of timm's, when both or neither of the last two is given, or when
            one is outside its range.
    """
    if block not in _SPATIAL_CONVS:
        raise ValueError(
            f"block={getattr(block, '__name__', block)} is not a block of timm's ResNet; "
            f"expected {' or '.join(known.__name__ for known in _SPATIAL_CONVS)}."
        )
    if (deform_stages is None) == (deform_last is None):
        raise ValueError(
            f"deform_stages={deform_stages!r} and deform_last={deform_last!r} were given; "
            "expected exactly one of them."
        )
    convs = [
        (stage, index, name)
        for stage, depth in enumerate(depths)
        for index in range(depth)
        for name in _SPATIAL_CONVS[block]
    ]
    if deform_last is None:
        chosen = set(_convs_of_stages(convs, deform_stages, len(depths)))
    else:
        chosen = set(_last_convs(convs, deform_last))
    return [
        [
            tuple(name for name in _SPATIAL_CONVS[block] if (stage, index, name) in chosen)
            for index in range(depth)
        ]
        for stage, depth in enumerate(depths)
    ]


def _convs_of_stages(convs: list[tuple], deform_stages: Sequence[int], num_stages: int) -> list[tuple]:
    known = range(_FIRST_STAGE, _FIRST_STAGE + num_stages)
    is_sequence = isinstance(deform_stages, Sequence)
    if not is_sequence or any(stage not in known for stage in deform_stages):
        problem = "names a stage that does not exist" if is_sequence else "is not a sequence of stages"
        expected = f"expected some of {', '.join(map(str, known))} (the papers' conv2 to conv5)"
        raise ValueError(f"deform_stages={deform_stages!r} {problem}; {expected}.")
    return [conv for conv in convs if conv[0] + _FIRST_STAGE in deform_stages]


def _last_convs(convs: list[tuple], deform_last: int) -> list[tuple]:
    if not isinstance(deform_last, int) or not 0 <= deform_last <= len(convs):
        raise ValueError(
            f"deform_last={deform_last!r} is not a number of 3x3 convolutions that this network has; "
            f"expected 0 to {len(convs)}."
        )
    return convs[len(convs) - deform_last :]
