"""Deformable convolution layers: the operator together with the convolution that predicts where it samples.

Both layers keep mmcv's key layout, ``weight``, ``bias`` and ``conv_offset.{weight,bias}``, and both load the
state of a plain convolution: the layer then computes what the plain convolution computes.
"""

import logging
from collections.abc import Mapping
from typing import Any, Self

import torch
from timm.layers import register_notrace_module, to_2tuple
from torch import Tensor, nn

from ..ops import deform_conv2d
from .offset_branch import OffsetConv2d, at_least_float32

_logger = logging.getLogger(__name__)

# All modules of one `load_state_dict` call share one list of missing keys. Keeping the last one, and so its
# identity, tells the first converted layer of a load, which speaks, from the others, which do not.
_announced_load: list[str] | None = None


@register_notrace_module
class DeformConv2d(nn.Module):
    """Deformable convolution, DCNv1: a convolution of any kernel whose samples are moved by learned offsets.

    Source: Dai et al., "Deformable Convolutional Networks", 2017, equation 2. The offsets are predicted from
    the same input by ``conv_offset``, a convolution of the same kernel, stride, padding and dilation. It
    starts at zero, so that the layer starts as a plain convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel, ``(kh, kw)`` or one number for both; ``K = kh*kw`` samples.
        stride: Stride of the kernel, in pixels.
        padding: Zero padding on every side, in pixels.
        dilation: Distance between neighbouring samples, in pixels.
        groups: Blocked connections from input to output channels, as in ``nn.Conv2d``.
        offset_groups: ``G``, groups of input channels with offsets of their own (``deform_groups`` in mmcv).
        bias: Whether the output has a learned bias.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: When ``groups`` or ``offset_groups`` does not divide the channels.

    Shapes:
        - input: ``(N, in_channels, H, W)``
        - output: ``(N, out_channels, H_out, W_out)``, the size that ``nn.Conv2d`` gives
        - ``weight``: ``(out_channels, in_channels / groups, kh, kw)``
        - ``conv_offset`` output: ``(N, 2*G*K, H_out, W_out)``, channel order ``[group][k][y, x]``, in pixels
    """

    offset_branch = "conv_offset"
    offset_lr_scale = 1.0  # section 2.3 of the paper; see `offset_lr_scales`
    _offset_channels_per_sample = 2
    # Times a plain convolution's weight, so that a layer of zero offsets computes what the convolution does.
    _plain_weight_scale = 1.0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        offset_groups: int = 1,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_divides("groups", groups, "in_channels", in_channels)
        _check_divides("groups", groups, "out_channels", out_channels)
        _check_divides("offset_groups", offset_groups, "in_channels", in_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = to_2tuple(kernel_size)
        self.stride = to_2tuple(stride)
        self.padding = to_2tuple(padding)
        self.dilation = to_2tuple(dilation)
        self.groups = groups
        self.offset_groups = offset_groups

        factory = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size, **factory)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.conv_offset = OffsetConv2d(
            in_channels,
            self._offset_channels_per_sample * self._samples,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            **factory,
        )
        self.reset_parameters()

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, offset_groups: int = 1) -> Self:
        """The deformable layer that has a plain convolution's geometry and computes what it computes.

        Args:
            conv: Convolution with zero padding given in pixels; it is left as it is.
            offset_groups: Groups of input channels that have their own offsets.

        Raises:
            ValueError: When ``conv`` pads otherwise, or ``offset_groups`` does not divide its input channels.
        """
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(
                f"conv pads with padding={conv.padding!r}, padding_mode={conv.padding_mode!r}, "
                "but a deformable convolution needs zero padding given in pixels."
            )
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            offset_groups,
            bias=conv.bias is not None,
            device="meta",  # nothing is initialised that the next lines set
            dtype=conv.weight.dtype,
        ).to_empty(device=conv.weight.device)
        layer.train(conv.training)
        with torch.no_grad():
            layer.weight.copy_(conv.weight * cls._plain_weight_scale)
            if conv.bias is not None:
                layer.bias.copy_(conv.bias)
        layer.reset_offset_branch()
        return layer

    @property
    def _samples(self) -> int:
        """Sampling points of one output position, all offset groups together: ``G*K``."""
        return self.offset_groups * self.kernel_size[0] * self.kernel_size[1]

    def reset_parameters(self) -> None:
        """Initialise the weight as timm does a ResNet's convolutions (Kaiming fan-out); the rest is zero."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.reset_offset_branch()

    def reset_offset_branch(self) -> None:
        """Set ``conv_offset`` to zero: no offsets, and a mask of one half where there is one."""
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, input: Tensor) -> Tensor:
        offset = self._predict_sampling(input)
        return self._sample(input, offset, mask=None)

    def _predict_sampling(self, input: Tensor) -> Tensor:
        """Output of ``conv_offset``, in float32 or better: what follows must not round positions further.

        Under autocast the convolution itself runs in the half type. Measured with the embedded weights of
        ``dcnv2_resnet18`` on their 4,999 validation images in bfloat16 (128 px, one run, one CPU thread): the
        error of the logits is 0.54 % of their spread with this convolution in either type, the top-1 accuracy
        55.97 % and 55.93 % with it in float32 (55.83 % without autocast), at 191 and 176 images/s.
        """
        return at_least_float32(self.conv_offset(input))

    def _sample(self, input: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        return deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask=mask
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load, completing the state of a plain convolution first.

        A plain convolution's state gets an offset branch of zeros, and twice its weight in a modulated layer.
        ``state_dict`` is `load_state_dict`'s own copy: its entries are replaced, the tensors are left alone.
        """
        with torch.no_grad():
            completed = self.complete_state(state_dict, prefix)
        if completed:
            _announce_once(prefix, missing_keys)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def complete_state(self, state: dict[str, Any], prefix: str) -> bool:
        """Complete a plain convolution's state in place, as loading does.

        Args:
            state: State dict whose keys of this layer start with ``prefix``.
            prefix: The layer's path in the network and a dot, or nothing.

        Returns:
            Whether there was anything to complete: a weight without a ``conv_offset``.
        """
        weight = state.get(f"{prefix}weight")
        offset_keys = [f"{prefix}conv_offset.{name}" for name in ("weight", "bias")]
        if weight is None or any(key in state for key in offset_keys):
            return False
        for key, own in zip(offset_keys, (self.conv_offset.weight, self.conv_offset.bias), strict=True):
            state[key] = weight.new_zeros(own.shape)
        state[f"{prefix}weight"] = weight * self._plain_weight_scale
        return True

    def extra_repr(self) -> str:
        """The geometry, what differs from the defaults only."""
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ]
        defaults = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "offset_groups": 1}
        parts += [
            f"{name}={getattr(self, name)}"
            for name, value in defaults.items()
            if getattr(self, name) != value
        ]
        parts += ["bias=False"] if self.bias is None else []
        return ", ".join(parts)


@register_notrace_module
class ModulatedDeformConv2d(DeformConv2d):
    """Modulated deformable convolution, DCNv2: every sample is also weighted by a learned mask.

    Source: Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", 2019, equation 1. Arguments
    and shapes are `DeformConv2d`'s, but the output of ``conv_offset`` has ``3*G*K`` channels: the first
    ``2*G*K`` are the offsets, the last ``G*K`` the mask's logits, order ``[group][k]``, and
    ``mask = sigmoid(logits)``. Logits of zero are a mask of one half, so a fresh layer computes half of what
    a plain convolution of the same weight does. Loading the state of a plain convolution makes up
    for it by doubling the weight.
    """

    offset_lr_scale = 0.1  # section 3.2 of the paper
    _offset_channels_per_sample = 3
    _plain_weight_scale = 2.0  # sigmoid(0) is one half

    def forward(self, input: Tensor) -> Tensor:
        offset, logits = self._predict_sampling(input).split([2 * self._samples, self._samples], dim=1)
        return self._sample(input, offset, mask=logits.sigmoid())


def _check_divides(divisor_name: str, divisor: int, channels_name: str, channels: int) -> None:
    if divisor < 1 or channels % divisor:
        raise ValueError(
            f"{divisor_name}={divisor} does not divide {channels_name}={channels}; "
            f"expected a positive divisor of {channels}."
        )


def _announce_once(prefix: str, missing_keys: list[str]) -> None:
    global _announced_load
    if missing_keys is _announced_load:
        return
    _announced_load = missing_keys
    _logger.info(
        "Deformable layers start from plain convolutions (the first: %s): offsets and mask logits are zero "
        "and modulated weights doubled, so that the network computes what the plain one does.",
        prefix.rstrip(".") or "the root",
    )
