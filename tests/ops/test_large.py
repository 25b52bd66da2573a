"""More elements than 31 bits count: `make large`, on a machine with 20 GB of free memory."""

import os

import numpy
import pytest
import torch

from dcn_backbones.ops import available_backends, deform_conv2d, deform_roi_pool, use_backend

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


def make_images(dtype: torch.dtype, channels_last: bool) -> torch.Tensor:
    """Images of zeros but for those that are compared, hence an index gone astray finds zeros.

    NumPy's zeros take no memory before they are written.
    """
    shape = (BATCH, SIZE, SIZE, CHANNELS) if channels_last else (BATCH, CHANNELS, SIZE, SIZE)
    images = torch.from_numpy(numpy.zeros(shape, f"i{dtype.itemsize}")).view(dtype)
    images = images.permute(0, 3, 1, 2) if channels_last else images
    images[COMPARED] = torch.randn(len(COMPARED), CHANNELS, SIZE, SIZE, dtype=dtype)
    return images


def make_tensors(out_channels: int, groups: int) -> dict[str, torch.Tensor]:
    return dict(
        input=make_images(TYPE, channels_last=True),
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


def _boxes(images: torch.Tensor, each: int) -> torch.Tensor:
    corners = SIZE / 2 * torch.rand(len(images) * each, 2)
    return torch.cat([images.repeat_interleave(each)[:, None], corners, corners + SIZE / 3], 1)


@pytest.mark.parametrize("each", [4, 40], ids=["in_place", "made_dense_first"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_roi_pooling_of_images_past_31_bits(channels_last, each):
    """Many regions of an image make a contiguous one worth converting."""
    boxes = _boxes(torch.tensor(COMPARED).float(), each)
    few = torch.cat([torch.arange(len(COMPARED)).repeat_interleave(each)[:, None], boxes[:, 1:]], 1)
    images = make_images(torch.float32, channels_last)
    offset, grad_output = torch.randn(len(boxes), 2, 2, 2), torch.randn(len(boxes), CHANNELS, 2, 2)

    def results(backend: str, input: torch.Tensor, boxes: torch.Tensor) -> list[torch.Tensor]:
        leaves = [input.requires_grad_(), offset.to(input.dtype).requires_grad_()]
        with use_backend(backend):
            output = deform_roi_pool(input, boxes.to(input.dtype), 2, sampling_ratio=2, offset=leaves[1])
        gradients = torch.autograd.grad(output, leaves, grad_output.to(input.dtype))
        return [output.detach(), *gradients]

    output, grad_input, grad_offset = results("extension", images, boxes)
    expected = results("reference", images.detach()[COMPARED].double(), few)
    tolerance = tolerance_of("extension", torch.float32)
    assert_near(output, expected[0], tolerance.forward, "output")
    assert_near(grad_input[COMPARED], expected[1], tolerance.backward, "input")
    assert_near(grad_offset, expected[2], tolerance.backward, "offset")
    assert not grad_input[1].any() and not grad_input[BATCH - 3].any()


@pytest.mark.parametrize("channels_last", [True, False])
def test_roi_pooling_of_more_regions_than_31_bits_count(channels_last):
    """The first and the last region, in the output and in its gradient, which is zero elsewhere."""
    regions = 2**31 // (CHANNELS * 49) + 1
    boxes = _boxes(torch.zeros(1), regions)
    ends, tolerance = [0, regions - 1], tolerance_of("extension", torch.float32)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = torch.randn(1, CHANNELS, SIZE, SIZE).contiguous(memory_format=layout)
    settings = [[7, 7], 1.0, 2, 0.1, False]
    exact = image.double().requires_grad_()
    with use_backend("reference"):
        expected = deform_roi_pool(exact, boxes[ends].double(), 7, sampling_ratio=2)
    grad_ends = torch.randn(2, CHANNELS, 7, 7)
    (expected_gradient,) = torch.autograd.grad(expected, [exact], grad_ends.double())
    forward = torch.ops.dcn_backbones._deform_roi_pool_forward
    assert_near(forward(image, boxes, None, None, *settings)[ends], expected.detach(), tolerance.forward)
    grad_output = (
        torch.zeros(regions, 7, 7, CHANNELS) if channels_last else torch.zeros(regions, CHANNELS, 7, 7)
    )
    grad_output = grad_output.permute(0, 3, 1, 2) if channels_last else grad_output
    grad_output[ends] = grad_ends
    backward = torch.ops.dcn_backbones._deform_roi_pool_backward
    needs = [True, False, False]
    found = backward(grad_output, image, boxes, None, None, *settings, needs)[0]
    assert_near(found, expected_gradient, tolerance.backward)
