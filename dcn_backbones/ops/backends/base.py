"""The contract of a backend: the facts it declares and the reasons it gives."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int] | list[int]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]

FLOAT_TYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})


def accumulate_type(dtype: torch.dtype) -> torch.dtype:
    """What positions are computed and products are summed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Request(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    dtype: torch.dtype
    deterministic: bool


class Tolerance(NamedTuple):
    """Largest error against the float64 result, relative to that result's largest magnitude."""

    forward: float
    backward: float


class Backend(ABC):
    """One implementation of deformable convolution.

    Subclasses declare facts as class attributes; `not_supported_reasons` turns them into sentences.
    """

    name: ClassVar[str]
    automatic: ClassVar[bool] = True
    """Whether the backend may be chosen without being named."""
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

    def not_supported_reasons(self, request: Request) -> list[str]:
        """Why the backend cannot take this call; empty when it can."""
        reasons = self.unavailable_reasons()
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

    @abstractmethod
    def forward(
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

    @abstractmethod
    def backward(
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


def _listed(names) -> str:
    return ", ".join(sorted(names))
