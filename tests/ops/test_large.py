"""More elements than 31 bits count: `make large`, on a machine with 20 GB of free memory."""

import os

import pytest
import torch

from dcn_backbones.ops import available_backends, deform_conv2d, use_backend

from .compare import assert_near, tolerance_of

pytestmark = [
    pytest.mark.skipif("DCN_LARGE" not in os.environ, reason="takes 20 GB of memory: make large"),
    pytest.mark.skipif("extension" not in available_backends(), reason="the extension is not built"),
]

CHANNELS, SIZE = 1024, 32
BATCH = 2**31 // (CHANNELS * SIZE * SIZE) + 1  # the last image begins at element 2**31
# The first, the two around byte 2**31, the two around element 2**31.
COMPARED = [0, BATCH // 2 - 1, BATCH // 2, BATCH - 2, BATCH - 1]
TYPE = torch.bfloat16


def make_tensors(out_channels: int, groups: int) -> dict[str, torch.Tensor]:
    """Images of zeros but for those that are compared, hence an index gone astray finds zeros."""
    image = torch.zeros(BATCH, SIZE, SIZE, CHANNELS, dtype=TYPE).permute(0, 3, 1, 2)
    image[COMPARED] = torch.randn(len(COMPARED), CHANNELS, SIZE, SIZE, dtype=TYPE)
    return dict(
        input=image,
        offset=2 * torch.randn(BATCH, 18, SIZE, SIZE),
        weight=torch.randn(out_channels, CHANNELS // groups, 3, 3, dtype=TYPE),
        mask=torch.rand(BATCH, 9, SIZE, SIZE),
    )


def expected_of(tensors: dict[str, torch.Tensor], grad_output: torch.Tensor) -> dict[str, torch.Tensor]:
    """The reference's results in float64 on the compared images alone."""
    few = {name: t if name == "weight" else t[COMPARED] for name, t in tensors.items()}
    leaves = {name: t.detach().double().requires_grad_() for name, t in few.items()}
    with use_backend("reference"):
        output = deform_conv2d(**leaves, padding=1)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad_output[COMPARED].double())
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def test_input_and_output_past_31_bits():
    tensors = make_tensors(CHANNELS, groups=32)
    with torch.no_grad(), use_backend("extension"):
        output = deform_conv2d(**tensors, padding=1)
    assert output.numel() > 2**31
    with torch.no_grad(), use_backend("reference"):
        few = {name: t.double() if name == "weight" else t[COMPARED].double() for name, t in tensors.items()}
        expected = deform_conv2d(**few, padding=1)
    for found, image in zip(output[COMPARED], expected, strict=True):
        assert_near(found, image, tolerance_of("extension", TYPE).forward)
    assert not output[1].any() and not output[BATCH - 3].any()


def test_gradients_past_31_bits():
    """The gradient of the output is zero but for the compared images: theirs are all that counts."""
    tensors = make_tensors(out_channels=2, groups=1)
    grad_output = torch.zeros(BATCH, 2, SIZE, SIZE, dtype=TYPE)
    grad_output[COMPARED] = torch.randn(len(COMPARED), 2, SIZE, SIZE, dtype=TYPE)
    expected = expected_of(tensors, grad_output)
    leaves = {name: t.requires_grad_() for name, t in tensors.items()}
    with use_backend("extension"):
        output = deform_conv2d(**leaves, padding=1)
    gradients = dict(
        zip(leaves, torch.autograd.grad(output, list(leaves.values()), grad_output), strict=True)
    )
    tolerance = tolerance_of("extension", TYPE)
    assert_near(output[COMPARED], expected["output"], tolerance.forward, "output")
    assert_near(gradients["weight"], expected["weight"], tolerance.backward, "weight")
    for name in ("input", "offset", "mask"):
        for gradient, image in zip(gradients[name][COMPARED], expected[name], strict=True):
            assert_near(gradient, image, tolerance.backward, name)
        assert not gradients[name][1].any() and not gradients[name][BATCH - 3].any(), name
