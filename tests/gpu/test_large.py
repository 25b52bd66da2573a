"""More than 2^31 elements: indices of 32 bits would wrap."""

import pytest
import torch

from dcn_backbones.ops import deform_conv2d, use_backend

from ..ops.compare import assert_near, tolerance_of

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

SIZE, CHANNELS, STRIDE, ROWS = 5800, 64, 8, 8
NEEDED = 24 * 2**30  # bytes: input and its gradient in bfloat16, and the sums of that gradient in float32


def test_far_end_of_a_large_image(cuda_backend):
    """The last output rows and their gradients are those of the reference on the last input rows alone."""
    if torch.cuda.mem_get_info()[0] < NEEDED:
        pytest.skip("needs 24 GiB of free GPU memory")
    shape = (1, CHANNELS, SIZE, SIZE)
    assert torch.Size(shape).numel() > 2**31
    input = torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    out = (SIZE - 1) // STRIDE + 1
    offset = 0.9 * torch.rand(1, 2, out, out, device="cuda")  # no sample reaches the rows of another
    weight = torch.randn(16, CHANNELS, 1, 1, device="cuda", dtype=torch.bfloat16) / 8
    top = (out - ROWS) * STRIDE
    whole = _gradients(cuda_backend, input, offset, weight)
    part = _gradients("reference", input[:, :, top:].float(), offset[:, :, -ROWS:], weight.float())
    tolerance = tolerance_of(cuda_backend, torch.bfloat16)
    assert_near(whole[0][:, :, -ROWS:], part[0], tolerance.forward, "output")
    assert_near(whole[1][:, :, top:], part[1], tolerance.backward, "gradient of input")
    assert_near(whole[2][:, :, -ROWS:], part[2], tolerance.backward, "gradient of offset")


def _gradients(backend: str, input: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor) -> tuple:
    """The output, and the gradients of input and offset."""
    input, offset = input.detach().requires_grad_(), offset.detach().requires_grad_()
    with use_backend(backend):
        output = deform_conv2d(input, offset, weight, stride=STRIDE)
    return (output.detach(), *torch.autograd.grad(output, [input, offset], torch.ones_like(output)))
