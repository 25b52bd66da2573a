"""Deformable RoI pooling layers: the operator together with the branch that predicts where its bins lie.

The branch sees what it will move: the features that aligned pooling finds in the same boxes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import register_notrace_module, to_2tuple
from torch import Tensor, nn

from ..ops import deform_ps_roi_pool, deform_roi_pool
from ..ops.roi_checks import Boxes
from .offset_branch import at_least_float32

Pool = Callable[[Tensor | None, Tensor | None], Tensor]
"""Offset `(R, 2, kh, kw)` and mask `(R, kh, kw)`, or None, to pooled features `(R, in_channels, kh, kw)`."""


@register_notrace_module
class DeformRoIPool(nn.Module):
    """Deformable RoI pooling, DCNv1: aligned RoI pooling whose bins are moved by learned offsets.

    Source: Dai et al., "Deformable Convolutional Networks", 2017, section 2.2 and equation 6. One fully
    connected layer, ``offset_fc``, predicts the offsets from the aligned pooled features. It starts at zero,
    so that the layer starts as `torchvision.ops.roi_align(..., aligned=True)`. The paper trains it at 0.01
    times the learning rate: `offset_lr_scales`.

    Of 256 channels and 7x7 bins it has 1,229,410 parameters.

    Args:
        in_channels: Channels of the input.
        output_size: Bins ``(kh, kw)``, or one number for both; ``K = kh*kw``.
        spatial_scale: Pixels of the input for each unit of the boxes.
        sampling_ratio: Sampling points of a bin along each axis; if not positive, as many as the bin has
            pixels, rounded up. Export to ONNX needs a positive one.
        gamma: The scale of the offsets.
        hidden_channels: Widths of fully connected layers before the last, a ReLU behind each. With
            ``(1024, 1024)`` the layer is mmcv's ``DeformRoIPoolPack`` and loads its state.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Shapes:
        - input: ``(N, in_channels, H, W)``
        - boxes: ``(R, 5)``, each ``[index of the image, x1, y1, x2, y2]``, or a list of ``(R_i, 4)``, one
          for each image
        - output: ``(R, in_channels, kh, kw)``
        - ``offset_fc`` input: ``(R, in_channels*K)``, order ``[channel][bin]``
        - ``offset_fc`` output: ``(R, 2*K)``, order ``[x, y][bin]``; times `gamma`, in widths and heights of
          the RoI
    """

    offset_branch = "offset_fc"
    offset_lr_scale = 0.01  # section 2.3 of the paper, Faster R-CNN; see `offset_lr_scales`
    _outputs_per_bin = 2

    def __init__(
        self,
        in_channels: int,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        gamma: float = 0.1,
        hidden_channels: Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.output_size = to_2tuple(output_size)
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.gamma = gamma
        bins = self.output_size[0] * self.output_size[1]
        widths = [in_channels * bins, *hidden_channels, self._outputs_per_bin * bins]
        layers = []
        for fan_in, fan_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(fan_in, fan_out, device=device, dtype=dtype), nn.ReLU()]
        self.offset_fc = nn.Sequential(*layers[:-1])
        self.reset_offset_branch()

    def reset_offset_branch(self) -> None:
        """Set the last layer to zero, hence all it predicts; those before it get PyTorch's initialisation.

        With all of them at zero, as one may read the DCNv2 paper, only the last bias would ever learn.
        """
        *hidden, last = (layer for layer in self.offset_fc if isinstance(layer, nn.Linear))
        for layer in hidden:
            layer.reset_parameters()
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, input: Tensor, boxes: Boxes) -> Tensor:
        def pool(offset: Tensor | None, mask: Tensor | None) -> Tensor:
            return self.sample(input, boxes, self.spatial_scale, offset, mask)

        return self.deform(pool)

    def deform(self, pool: Pool) -> Tensor:
        """Pool without offsets, predict them from that, and pool with them: ``(R, in_channels, kh, kw)``."""
        return pool(*self._predict_bins(pool(None, None)))

    def sample(
        self, input: Tensor, boxes: Boxes, spatial_scale: float, offset: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The operator with this layer's settings."""
        size, ratio = self.output_size, self.sampling_ratio
        return deform_roi_pool(input, boxes, size, spatial_scale, ratio, offset, mask, self.gamma)

    def _predict_bins(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._predict(pooled), None

    def _predict(self, pooled: Tensor) -> Tensor:
        """What the branch says, ``(R, outputs for each bin, kh, kw)``, in float32 or better."""
        predicted = at_least_float32(self.offset_fc(pooled.flatten(1)))
        return predicted.unflatten(1, (self._outputs_per_bin, *self.output_size))

    def extra_repr(self) -> str:
        """The geometry, what differs from the defaults only."""
        defaults = {"spatial_scale": 1.0, "sampling_ratio": -1, "gamma": 0.1}
        changed = [
            f"{name}={getattr(self, name)}" for name in defaults if getattr(self, name) != defaults[name]
        ]
        return ", ".join([f"{self.in_channels}, output_size={self.output_size}", *changed])


@register_notrace_module
class ModulatedDeformRoIPool(DeformRoIPool):
    """Modulated deformable RoI pooling, DCNv2: every bin is also weighted by a learned mask.

    Source: Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", 2019, section 3.2 and
    equation 2. Arguments and shapes are `DeformRoIPool`'s, but ``offset_fc`` has two fully connected layers,
    1024 channels and a ReLU between them, and ``3*K`` outputs: the first ``2*K`` are the offsets, the last
    ``K`` the mask's logits, and ``mask = sigmoid(logits)``. The paper trains it at the learning rate of all
    other layers.

    As in the paper, logits of zero are a mask of one half, and nothing makes up for it: a fresh layer gives
    half of what aligned pooling does. A detector trained on aligned pooling goes on as it was when the weight
    (not the bias) of the layer behind the pooling is doubled.

    Of 256 channels and 7x7 bins it has 12,996,755 parameters.

    The mask of mmcv's ``ModulatedDeformRoIPoolPack`` has layers of its own, ``mask_fc``. A layer with
    ``hidden_channels=(2048, 2048)`` loads its state and computes the same: both branches stand side by side.
    """

    offset_lr_scale = 1.0  # section 3.2 of the paper
    _outputs_per_bin = 3

    def __init__(
        self,
        in_channels: int,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        gamma: float = 0.1,
        hidden_channels: Sequence[int] = (1024,),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, output_size, spatial_scale, sampling_ratio, gamma, hidden_channels, device, dtype
        )

    def _predict_bins(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        predicted = self._predict(pooled)
        return predicted[:, :2], predicted[:, 2].sigmoid()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load, joining the two branches of mmcv's layer first; the dict is `load_state_dict`'s own copy."""
        if f"{prefix}mask_fc.0.weight" in state_dict:
            _join_mask_branch(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class DeformPSRoIPool(nn.Module):
    """Deformable position-sensitive RoI pooling, DCNv1, for R-FCN: its offsets are pooled like its scores.

    Source: Dai et al., "Deformable Convolutional Networks", 2017, section 2.2 with figure 4 of its published
    version: a convolution predicts fields of offsets at every pixel, and position-sensitive pooling of them
    gives the offset of each bin. The layer has no parameters, both maps come from convolutions outside of it.
    Initialise the offsets' with zeros; called ``conv_offset``, it gets the recipes' ``offset_lr_scale``.

    Args:
        output_size: Bins ``(kh, kw)``, or one number for both; ``K = kh*kw``.
        spatial_scale: Pixels of both maps for each unit of the boxes.
        sampling_ratio: Sampling points of a bin along each axis; if not positive, as many as the bin has
            pixels, rounded up.
        gamma: The scale of the offsets.

    Shapes:
        - scores: ``(N, C_out*K, H, W)``, channel order ``[output channel][bin]``
        - offset_fields: ``(N, 2*G*K, H, W)``, channel order ``[group][x, y][bin]``; ``G`` groups divide the
          output channels evenly, in order. The paper has a group for each class.
        - boxes: ``(R, 5)``, each ``[index of the image, x1, y1, x2, y2]``, or a list of ``(R_i, 4)``
        - output: ``(R, C_out, kh, kw)``
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        gamma: float = 0.1,
    ) -> None:
        super().__init__()
        self.output_size = to_2tuple(output_size)
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.gamma = gamma

    def forward(self, scores: Tensor, offset_fields: Tensor, boxes: Boxes) -> Tensor:
        settings = (self.output_size, self.spatial_scale, self.sampling_ratio)
        offset = at_least_float32(deform_ps_roi_pool(offset_fields, boxes, *settings))
        return deform_ps_roi_pool(scores, boxes, *settings, offset, self.gamma)


def _join_mask_branch(state: dict[str, Any], prefix: str) -> None:
    """mmcv's ``offset_fc`` of three layers and ``mask_fc`` of two as one ``offset_fc`` of three, in place.

    The mask's hidden channels pass the layer that it does not have unchanged: a ReLU made them positive.
    """
    names = ("weight", "bias")
    mask = [[state.pop(f"{prefix}mask_fc.{index}.{name}") for name in names] for index in (0, 2)]
    hidden = mask[0][0]
    mask.insert(1, [torch.eye(len(hidden)).to(hidden), torch.zeros_like(mask[0][1])])
    for index, (weight, bias) in zip((0, 2, 4), mask, strict=True):
        keys = [f"{prefix}offset_fc.{index}.{name}" for name in names]
        # The first layers see the same pooled features, the others the channels of their own branch.
        join = torch.cat if index == 0 else lambda weights: torch.block_diag(*weights)
        state[keys[0]] = join([state[keys[0]], weight])
        state[keys[1]] = torch.cat([state[keys[1]], bias])
