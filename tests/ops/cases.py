"""Awkward configurations of deformable convolution and the tensors that go with them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One configuration. Offsets have a standard deviation of `spread` pixels."""

    batch: int = 2
    channels: int = 6
    out_channels: int = 4
    size: tuple[int, int] = (7, 9)
    kernel_size: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    mask: bool = True
    bias: bool = True
    spread: float = 2.0

    @property
    def output_size(self) -> tuple[int, int]:
        return tuple(
            (self.size[i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel_size[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in range(2)
        )

    @property
    def settings(self) -> dict:
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation)

    def tensors(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor | None]:
        """The tensor arguments by name; offset and mask in float32 where the type is half.

        On the default device, with the same numbers on every device.
        """
        generator = torch.Generator().manual_seed(seed)
        position_type = dtype if dtype in (torch.float64, torch.float32) else torch.float32
        taps = self.offset_groups * self.kernel_size[0] * self.kernel_size[1]

        def normal(*shape: int) -> Tensor:
            numbers = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            return numbers.to(torch.get_default_device())

        offset = self.spread * normal(self.batch, 2 * taps, *self.output_size)
        mask = torch.sigmoid(normal(self.batch, taps, *self.output_size))
        weight = normal(self.out_channels, self.channels // self.groups, *self.kernel_size)
        return dict(
            input=normal(self.batch, self.channels, *self.size).to(dtype),
            offset=offset.to(position_type),
            weight=weight.to(dtype),
            bias=normal(self.out_channels).to(dtype) if self.bias else None,
            mask=mask.to(position_type) if self.mask else None,
        )


AWKWARD = {
    "modulated": Case(),
    "unmodulated": Case(mask=False, bias=False),
    "kernel_3x2_stride_2x1": Case(kernel_size=(3, 2), stride=(2, 1), padding=(2, 0)),
    "groups_2_offset_groups_3": Case(groups=2, offset_groups=3, channels=12),
    "depthwise": Case(channels=4, groups=4, offset_groups=2),
    "dilated": Case(dilation=(2, 3), padding=(2, 3)),
    "pointwise_strided": Case(kernel_size=(1, 1), padding=(0, 0), stride=(2, 2)),
    "large_kernel": Case(kernel_size=(5, 7), padding=(2, 3), size=(9, 11)),
    "batch_0": Case(batch=0),
    "batch_33": Case(batch=33, size=(4, 5)),
    "one_pixel": Case(size=(1, 1)),
    "one_channel": Case(channels=1, out_channels=1),
    "far_offsets": Case(spread=50.0),
    "many_positions": Case(batch=1, channels=8, out_channels=3, size=(40, 37)),
    "many_channels": Case(batch=1, channels=80, out_channels=33, size=(5, 5), offset_groups=4),
}


def random_case(seed: int) -> Case:
    """A valid configuration drawn from everything that varies."""
    draw = random.Random(seed)
    groups, offset_groups = draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 4])
    case = Case(
        batch=draw.choice([1, 2, 5]),
        channels=12 * draw.choice([1, 1, 2]),
        out_channels=groups * draw.choice([1, 2, 5]),
        size=(draw.randint(7, 13), draw.randint(7, 13)),
        kernel_size=(draw.randint(1, 4), draw.randint(1, 4)),
        stride=(draw.randint(1, 3), draw.randint(1, 3)),
        padding=(draw.randint(0, 3), draw.randint(0, 3)),
        dilation=(draw.randint(1, 2), draw.randint(1, 2)),
        groups=groups,
        offset_groups=offset_groups,
        mask=draw.random() < 0.7,
        bias=draw.random() < 0.7,
        spread=draw.choice([0.3, 2.0, 8.0]),
    )
    return case


def named_leaves(tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Copies of the tensors that are there, each asking for its gradient."""
    return {k: t.detach().clone().requires_grad_() for k, t in tensors.items() if t is not None}
