"""The contract of a backend: the facts it declares and the reasons it gives."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int] | list[int]
Gradients = tuple[Tensor | None, ...]

OPERATORS = ("deform_conv2d", "deform_roi_pool")
"""What a backend may have; `deform_ps_roi_pool` is part of `deform_roi_pool`."""

ROI_POOL_SCHEMA = (
    "Tensor input, Tensor boxes, Tensor? offset, Tensor? mask, int[2] output_size, float spatial_scale, "
    "int sampling_ratio, float gamma, bool position_sensitive"
)
"""The parameters that all kernels of `deform_roi_pool` begin with; backward, grad_output goes before them."""

FLOAT_TYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})


def accumulate_type(dtype: torch.dtype) -> torch.dtype:
    """What positions are computed and products are summed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Request(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    dtype: torch.dtype
    deterministic: bool
    operator: str = "deform_conv2d"
    deformed: bool = True
    """Whether there are offsets or a mask: deformable RoI pooling goes without, too."""


class Tolerance(NamedTuple):
    """Largest error against the float64 result, relative to that result's largest magnitude."""

    forward: float
    backward: float


class Backend(ABC):
    """One implementation of the operators, or of some.

    Subclasses declare facts as class attributes; `not_supported_reasons` turns them into sentences. An
    operator that is declared has a method for each direction, `<operator>_forward` and `<operator>_backward`.
    """

    name: ClassVar[str]
    automatic: ClassVar[bool] = True
    """Whether the backend may be chosen without being named."""
    operators: ClassVar[frozenset[str]] = frozenset({"deform_conv2d"})
    """Which of `OPERATORS` the backend has, on every device that it runs on."""
    devices: ClassVar[frozenset[str] | None] = None
    """Device types that the backend runs on; None is every device."""
    dtypes: ClassVar[frozenset[torch.dtype]] = FLOAT_TYPES
    nondeterministic_devices: ClassVar[frozenset[str]] = frozenset()
    """Device types on which the backward sums in an order that changes from run to run."""
    tolerances: ClassVar[dict[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-12, 1e-11),
        torch.float32: Tolerance(1e-5, 1e-4),
        torch.float16: Tolerance(1e-3, 2e-3),
        torch.bfloat16: Tolerance(8e-3, 1.6e-2),
    }
    """How far a result may be off, for each type that is taken; the tests read it here."""

    @abstractmethod
    def unavailable_reasons(self) -> list[str]:
        """Why the backend cannot run in this process, whatever the arguments; empty when it can."""

    def missing_parts(self) -> list[str]:
        """What the backend could do in another process, and why not in this one; one sentence each."""
        return []

    def operators_on(self, device: str) -> frozenset[str]:
        """The operators that it has on this device, where they differ."""
        return self.operators

    def not_supported_reasons(self, request: Request) -> list[str]:
        """Why the backend cannot take this call; empty when it can."""
        reasons = self.unavailable_reasons()
        if request.operator not in self.operators_on(request.device):
            reasons.append(f"it has no {request.operator} on {request.device} yet")
        if self.devices is not None and request.device not in self.devices:
            reasons.append(f"it runs on {_listed(self.devices)}, the input is on {request.device}")
        if request.dtype not in self.dtypes:
            reasons.append(f"it takes {_listed(map(str, self.dtypes))}, the input is {request.dtype}")
        if request.deterministic and request.device in self.nondeterministic_devices:
            reasons.append(
                f"its backward is not deterministic on {request.device} and "
                "torch.use_deterministic_algorithms(True) is set"
            )
        return reasons

    def deform_conv2d_forward(
        self,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> Tensor:
        """Return the output (N, C_out, H_out, W_out) in the type of `input`, in any strides."""
        raise NotImplementedError

    def deform_conv2d_backward(
        self,
        grad_output: Tensor,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        mask: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        needs: list[bool],
    ) -> Gradients:
        """Return the gradients of input, offset, weight and mask, in any strides.

        `needs` says, in the same order, which are asked for; what stands in the place of the others
        is ignored.
        """
        raise NotImplementedError

    def deform_roi_pool_forward(
        self,
        input: Tensor,
        boxes: Tensor,
        offset: Tensor | None,
        mask: Tensor | None,
        output_size: Pair,
        spatial_scale: float,
        sampling_ratio: int,
        gamma: float,
        position_sensitive: bool,
    ) -> Tensor:
        """Return the output (R, C_out, kh, kw) in the type of `input`, in any strides.

        Boxes are (R, 5), offset is (R, 2 * G, kh, kw), mask is (R, G, kh, kw), with G offset groups; C_out is
        C, or C / (kh * kw) where it is position-sensitive. `csrc/README.md` has the rules.
        """
        raise NotImplementedError

    def deform_roi_pool_backward(
        self,
        grad_output: Tensor,
        input: Tensor,
        boxes: Tensor,
        offset: Tensor | None,
        mask: Tensor | None,
        output_size: Pair,
        spatial_scale: float,
        sampling_ratio: int,
        gamma: float,
        position_sensitive: bool,
        needs: list[bool],
    ) -> Gradients:
        """Return the gradients of input, offset and mask, in any strides; `needs` as above."""
        raise NotImplementedError


def _listed(names) -> str:
    return ", ".join(sorted(names))
