"""The fallback on NVIDIA GPUs: kernels that Numba compiles at run time where the extension has none."""

import contextlib
import functools
import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor

from .base import OPERATORS, accumulate_type
from .blocked import BlockedBackend
from .blocks import Operands
from .dense_roi_pool import DenseRoiPool, Pooling

# Numba warns of fewer; blocks that find no work return at once.
_LEAST_BLOCKS, _MOST_BLOCKS = 128, 2**16


class NumbaCudaBackend(BlockedBackend, DenseRoiPool):
    """Numba is imported when the backend is first asked for on a machine with a GPU."""

    name = "numba_cuda"
    operators = frozenset(OPERATORS)
    devices = frozenset({"cuda"})
    overwrites_grad_columns = True

    def unavailable_reasons(self) -> list[str]:
        if torch.version.cuda is None:
            return [f"torch {torch.__version__} is not built for CUDA"]
        if importlib.util.find_spec("numba_cuda") is None:
            return ["numba-cuda is not installed (pip install 'dcn_backbones[numba]')"]
        if not torch.cuda.is_available():
            return ["there is no CUDA device"]
        return _numba_reasons()

    def gather(self, operands, first, columns) -> None:
        from . import numba_kernels

        input, offset, mask = operands.sampled
        kernel = numba_kernels.gather_kernel(_element(input))
        sizes = _sizes(operands, first, columns)
        with self._on_device(input, offset, _or(mask, offset), columns) as (arrays, stream):
            grid = _grid(_samples(sizes))
            kernel[grid, _block(), stream](*arrays[:3], mask is not None, arrays[3], sizes)

    def gather_backward(self, operands, first, grad_columns, columns, gradients) -> None:
        from . import numba_kernels

        input, offset, mask = operands.sampled
        kernel = numba_kernels.gather_backward_kernel(_element(input), gradients.scale is not None)
        sizes = _sizes(operands, first, grad_columns)
        optional = (mask, columns, gradients.offset, gradients.mask, gradients.input)
        has = tuple(tensor is not None for tensor in optional)
        with self._on_device(
            grad_columns,
            input,
            offset,
            _or(mask, offset),
            _or(columns, grad_columns),
            _or(gradients.offset, offset),
            _or(gradients.mask, offset),
            _or(gradients.input, offset),
            _or(gradients.scale, offset),
        ) as (arrays, stream):
            kernel[_grid(_samples(sizes)), _block(), stream](*arrays, has, sizes)

    def roi_pool(self, pooling, output) -> None:
        from . import numba_roi_kernels

        kernel = numba_roi_kernels.roi_pool_kernel(_element(pooling.input))
        settings, grid = _roi_settings(pooling), _roi_grid(pooling)
        with self._on_device(*_roi_arrays(pooling), output) as (arrays, stream):
            kernel[grid, _block(), stream](*arrays[:4], *settings, arrays[4])

    def roi_pool_backward(self, pooling, grad_output, gradients) -> None:
        from . import numba_roi_kernels

        element, settings, grid = _element(pooling.input), _roi_settings(pooling), _roi_grid(pooling)
        wants = gradients.offset is not None, gradients.mask is not None
        given = (*_roi_arrays(pooling), grad_output)
        if any(wants):
            kernel = numba_roi_kernels.roi_positions_kernel(element)
            filled = _or(gradients.offset, pooling.boxes), _or(gradients.mask, pooling.boxes)
            with self._on_device(*given, *filled) as (arrays, stream):
                kernel[grid, _block(), stream](*arrays[:4], *settings, *arrays[4:], wants)
        if gradients.input is not None:
            kernel = numba_roi_kernels.roi_scatter_kernel(element, gradients.scale is not None)
            filled = gradients.input, _or(gradients.scale, pooling.boxes)
            with self._on_device(*given[1:], *filled) as (arrays, stream):
                kernel[grid, _block(), stream](*arrays[:3], *settings, *arrays[3:])

    @contextlib.contextmanager
    def _on_device(self, *tensors: Tensor) -> Iterator[tuple[list, object]]:
        """Numba's view of the tensors, flat, and of torch's current stream, with their device current."""
        from numba import cuda

        device = tensors[0].device
        pointer = torch.cuda.current_stream(device).cuda_stream
        with cuda.gpus[device.index]:
            stream = cuda.external_stream(pointer) if pointer else 0
            yield [cuda.as_cuda_array(_flat(tensor), sync=False) for tensor in tensors], stream


def _numba_reasons() -> list[str]:
    """What keeps Numba from compiling for the GPU that torch sees."""
    try:
        from numba import cuda

        usable = cuda.is_available()
    except Exception as error:  # a broken CUDA installation fails in many ways
        return [f"numba-cuda does not import ({error})"]
    if not usable:
        return ["Numba finds no driver or no libNVVM (it comes with the CUDA toolkit and numba-cuda[cu13])"]
    return _compilation_reasons(torch.cuda.get_device_capability())


@functools.cache
def _compilation_reasons(capability: tuple[int, int]) -> list[str]:
    """Why a function of one line does not compile: numba-cuda 0.30 fails beside NumPy 2.5, but imports."""
    import numpy
    from numba import cuda, float32

    try:
        cuda.compile_ptx(lambda value: value, (float32,), device=True, cc=capability)
    except Exception as error:
        return [f"numba-cuda does not compile beside NumPy {numpy.__version__} ({error})"]
    return []


def _element(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """What stands in an absent tensor's place, unread: arrays of no size are not to be relied on."""
    return other if tensor is None else tensor


def _flat(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().view(-1)
    return tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor


def _sizes(operands: Operands, first: int, columns: Tensor):
    from .numba_kernels import Sizes

    geometry = operands.geometry
    return Sizes(
        first,
        columns.shape[1],
        *operands.input.shape[1:],
        operands.groups,
        geometry.offset_groups,
        *geometry.output_size,
        *geometry.kernel,
        *geometry.stride,
        *geometry.padding,
        *geometry.dilation,
    )


def _block() -> tuple[int, int]:
    from .numba_kernels import LANES, SAMPLES

    return LANES, SAMPLES


def _samples(sizes) -> int:
    return sizes.rows * sizes.offset_groups * sizes.kernel_height * sizes.kernel_width


def _grid(samples: int) -> int:
    from .numba_kernels import SAMPLES

    return max(_LEAST_BLOCKS, min(-(-samples // SAMPLES), _MOST_BLOCKS))


def _roi_arrays(pooling: Pooling) -> tuple[Tensor, ...]:
    input, boxes, offset, mask = pooling[:4]
    return input, boxes, _or(offset, boxes), _or(mask, boxes)


def _roi_grid(pooling: Pooling) -> int:
    return _grid(pooling.regions * pooling.offset_groups * pooling.bins)


def _roi_settings(pooling: Pooling) -> tuple:
    """What the kernels call has, numbers and sizes."""
    import numpy as np

    from .numba_roi_kernels import RoiSizes

    real = np.float64 if accumulate_type(pooling.input.dtype) == torch.float64 else np.float32
    sizes = RoiSizes(
        *pooling.input.shape,
        pooling.regions,
        pooling.out_channels,
        pooling.offset_groups,
        *pooling.output_size,
        pooling.sampling_ratio,
        int(pooling.position_sensitive),
    )
    has = pooling.offset is not None, pooling.mask is not None
    return has, (real(pooling.spatial_scale), real(pooling.gamma)), sizes
