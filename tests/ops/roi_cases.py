"""Awkward configurations of deformable RoI pooling and the tensors that go with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcn_backbones.ops import deform_ps_roi_pool, deform_roi_pool, use_backend


@dataclass(frozen=True)
class RoICase:
    """One configuration. Offsets have a standard deviation of `spread`; `sides` bound those of boxes."""

    batch: int = 2
    out_channels: int = 6
    size: tuple[int, int] = (9, 12)
    regions: int = 7
    sides: tuple[float, float] = (1.0, 10.0)  # pixels of the input
    output_size: tuple[int, int] = (3, 3)
    spatial_scale: float = 0.5
    sampling_ratio: int = 2
    gamma: float = 0.1
    offset: bool = True
    mask: bool = True
    spread: float = 2.0
    position_sensitive: bool = False
    offset_groups: int = 1

    @property
    def channels(self) -> int:
        return self.out_channels * (self.bins if self.position_sensitive else 1)

    @property
    def bins(self) -> int:
        return self.output_size[0] * self.output_size[1]

    @property
    def settings(self) -> dict:
        return dict(
            output_size=self.output_size,
            spatial_scale=self.spatial_scale,
            sampling_ratio=self.sampling_ratio,
        )

    @property
    def operator_settings(self) -> list:
        """What the custom operator takes after its tensors, but for the backend."""
        return [
            list(self.output_size),
            self.spatial_scale,
            self.sampling_ratio,
            self.gamma,
            self.position_sensitive,
        ]

    def tensors(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor | None]:
        """The tensor arguments by name; all but the input in float32 where the type is half.

        Corners of boxes lie on eighths of a pixel of the input, so that no type rounds them and the points of
        a bin are as many in every type. On the default device, the same numbers on every device.
        """
        generator = torch.Generator().manual_seed(seed)
        position_type = dtype if dtype in (torch.float64, torch.float32) else torch.float32

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")

        def uniform(least: float, most: float) -> Tensor:
            numbers = torch.rand(self.regions, generator=generator, dtype=torch.float64, device="cpu")
            return ((least + (most - least) * numbers) * 8).round() / 8

        height, width = self.size
        image = torch.randint(max(1, self.batch), (self.regions,), generator=generator, device="cpu").double()
        x, y = uniform(-3, width), uniform(-3, height)
        corners = torch.stack([x, y, x + uniform(*self.sides), y + uniform(*self.sides)], 1)
        boxes = torch.cat([image[:, None], corners / self.spatial_scale], 1)
        offset = self.spread * normal(self.regions, 2 * self.offset_groups, *self.output_size)
        mask = torch.sigmoid(normal(self.regions, *self.output_size))
        made = dict(
            input=normal(self.batch, self.channels, *self.size).to(dtype),
            boxes=boxes.to(position_type),
            offset=offset.to(position_type) if self.offset else None,
            mask=mask.to(position_type) if self.mask and not self.position_sensitive else None,
        )
        device = torch.get_default_device()
        return {name: None if tensor is None else tensor.to(device) for name, tensor in made.items()}


PLAIN = dict(offset=False, mask=False)
SENSITIVE = dict(position_sensitive=True, mask=False)

AWKWARD = {
    "modulated": RoICase(),
    "offset_only": RoICase(mask=False),
    "mask_only": RoICase(offset=False),
    "plain": RoICase(**PLAIN),
    "adaptive": RoICase(sampling_ratio=-1),
    "adaptive_plain": RoICase(sampling_ratio=0, **PLAIN),
    "bins_3x2": RoICase(output_size=(3, 2), sampling_ratio=3, spatial_scale=0.25),
    "bins_1x5": RoICase(output_size=(1, 5), sampling_ratio=-1, gamma=0.5),
    "bins_7x7": RoICase(output_size=(7, 7), size=(25, 20), sides=(4.0, 20.0)),
    "far_offsets": RoICase(spread=50.0),
    "larger_than_the_image": RoICase(sides=(15.0, 40.0), sampling_ratio=-1, spread=0.5),
    "no_size": RoICase(sides=(0.0, 0.0)),
    "no_size_adaptive": RoICase(sides=(0.0, 0.0), sampling_ratio=-1),
    "negative_size": RoICase(sides=(-6.0, -1.0)),
    "negative_size_plain": RoICase(sides=(-6.0, -1.0), **PLAIN),
    "regions_0": RoICase(regions=0),
    "regions_0_adaptive": RoICase(regions=0, sampling_ratio=-1),
    "batch_0": RoICase(batch=0, regions=0),
    "batch_33": RoICase(batch=33, regions=70, size=(5, 4)),
    "one_pixel": RoICase(size=(1, 1), sides=(0.5, 3.0)),
    "one_row": RoICase(size=(1, 9), sampling_ratio=-1),
    "one_channel": RoICase(out_channels=1),
    "many_channels": RoICase(out_channels=83, regions=3),
    "sensitive": RoICase(**SENSITIVE),
    "sensitive_plain": RoICase(offset=False, **SENSITIVE),
    "sensitive_adaptive_plain": RoICase(offset=False, sampling_ratio=-1, **SENSITIVE),
    "sensitive_groups_3": RoICase(offset_groups=3, output_size=(2, 3), sampling_ratio=-1, **SENSITIVE),
    "sensitive_groups_6": RoICase(offset_groups=6, output_size=(3, 2), **SENSITIVE),
}


def run(backend: str, case: RoICase, tensors: dict[str, Tensor | None]) -> Tensor:
    with use_backend(backend):
        return call(case, tensors)


def call(case: RoICase, tensors: dict[str, Tensor | None]) -> Tensor:
    if not case.position_sensitive:
        return deform_roi_pool(**tensors, **case.settings, gamma=case.gamma)
    tensors = {name: tensor for name, tensor in tensors.items() if name != "mask"}
    return deform_ps_roi_pool(**tensors, **case.settings, gamma=case.gamma)


def with_leaves(tensors: dict[str, Tensor | None]) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Copies that ask for their gradients, boxes apart; all arguments, and the copies alone."""
    leaves = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in tensors.items()
        if tensor is not None and name != "boxes"
    }
    return tensors | leaves, leaves
