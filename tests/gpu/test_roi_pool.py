"""RoI pooling on a GPU: streams, graphs, determinism, boxes of no image, and more than 2^31 elements."""

import pytest
import torch

from dcn_backbones.ops import deform_roi_pool, use_backend

from ..ops.compare import assert_near, backends_on, tolerance_of
from ..ops.roi_cases import SENSITIVE, RoICase, run, with_leaves

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

CASES = {
    "modulated": RoICase(batch=3, out_channels=64, size=(28, 31), regions=40, output_size=(7, 7)),
    "adaptive": RoICase(batch=3, out_channels=20, size=(50, 31), sides=(1.0, 60.0), sampling_ratio=-1),
    "sensitive": RoICase(out_channels=21, size=(28, 31), offset_groups=21, regions=40, **SENSITIVE),
}
SIZE, CHANNELS = 5800, 64
NEEDED = 40 * 2**30  # bytes: an image of bfloat16, its gradient and their sums in float32


@pytest.fixture(params=backends_on("cuda", ("torchvision", "reference"), "deform_roi_pool"))
def cuda_backend(request) -> str:
    return request.param


def tensors_on(device: str, case: RoICase, dtype: torch.dtype = torch.float32) -> dict:
    """Channels-last, as the fast path wants them."""
    tensors = {name: t.to(device) for name, t in case.tensors(dtype).items() if t is not None}
    tensors["input"] = tensors["input"].contiguous(memory_format=torch.channels_last)
    return tensors


def forward_and_backward(backend: str, case: RoICase, tensors: dict) -> list[torch.Tensor]:
    arguments, leaves = with_leaves({"offset": None, "mask": None} | tensors)
    output = run(backend, case, arguments)
    return [output.detach(), *torch.autograd.grad(output, list(leaves.values()), torch.ones_like(output))]


def assert_right(backend: str, case: RoICase, found: list, tensors: dict) -> None:
    """The reference's results in float64, for the same numbers, on the CPU."""
    wanted = forward_and_backward("reference", case, {name: t.double().cpu() for name, t in tensors.items()})
    tolerance = tolerance_of(backend, found[0].dtype)
    for i, (result, value) in enumerate(zip(found, wanted, strict=True)):
        assert_near(result.cpu(), value, tolerance.backward if i else tolerance.forward, f"result {i}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_captured_graph_replays_on_new_numbers(cuda_backend, name, dtype):
    case = CASES[name]
    tensors = tensors_on("cuda", case, dtype)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, loads and allocates what a capture may not
        for _ in range(3):
            forward_and_backward(cuda_backend, case, tensors)
    torch.cuda.current_stream().wait_stream(stream)
    arguments, leaves = with_leaves({"offset": None, "mask": None} | tensors)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run(cuda_backend, case, arguments)
        found = [output, *torch.autograd.grad(output, list(leaves.values()), torch.ones_like(output))]
    fresh = {name: t.roll(1, 0) for name, t in tensors.items()}
    with torch.no_grad():
        for name, tensor in fresh.items():
            arguments[name].copy_(tensor)
    graph.replay()
    assert_right(cuda_backend, case, [t.detach() for t in found], fresh)


def test_another_stream_than_the_default(cuda_backend):
    """The input is written on that stream after a long wait: a launch elsewhere would read what was there."""
    case = CASES["modulated"]
    tensors = tensors_on("cuda", case)
    forward_and_backward(cuda_backend, case, tensors)
    late = {name: torch.zeros_like(t) for name, t in tensors.items()}
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for name, tensor in tensors.items():
            late[name].copy_(tensor)
        found = forward_and_backward(cuda_backend, case, late)
    stream.synchronize()
    assert_right(cuda_backend, case, found, tensors)


def test_nothing_waits_for_the_device(cuda_backend):
    case = CASES["adaptive"]
    tensors = tensors_on("cuda", case)
    forward_and_backward(cuda_backend, case, tensors)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = forward_and_backward(cuda_backend, case, tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(t.isfinite().all() for t in found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_deterministic_algorithms_give_the_same_bits(cuda_backend, dtype):
    """All regions around one pixel: thousands of additions meet there."""
    case = RoICase(batch=1, out_channels=64, size=(9, 9), regions=400, output_size=(7, 7), spread=0.5)
    tensors = tensors_on("cuda", case, dtype)
    corners = torch.tensor([4.0, 4.0, 12.0, 12.0], device="cuda", dtype=tensors["boxes"].dtype)
    tensors["boxes"] = torch.cat([tensors["boxes"][:, :1], corners.expand(400, 4)], 1)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [forward_and_backward(cuda_backend, case, tensors) for _ in range(5)]
    finally:
        torch.use_deterministic_algorithms(False)
    for found in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, runs[0], strict=True))
    assert_right(cuda_backend, case, runs[0], tensors)


@pytest.mark.parametrize("index", [-1.0, 3.0, 1e9, float("nan"), float("inf")])
def test_a_box_of_no_image_is_outside(cuda_backend, index):
    """On the CPU it is an error; on a GPU nobody looks before the kernel does."""
    case = CASES["modulated"]
    tensors = tensors_on("cuda", case)
    tensors["boxes"][5, 0] = index
    output, grad_offset, grad_mask, grad_input = forward_and_backward(cuda_backend, case, tensors)
    assert not output[5].any() and not grad_offset[5].any() and not grad_mask[5].any()
    others = [i for i in range(case.regions) if i != 5]
    rest = {name: t if name == "input" else t[others] for name, t in tensors.items()}
    assert_right(
        cuda_backend, case, [output[others], grad_offset[others], grad_mask[others], grad_input], rest
    )


def test_far_end_of_a_large_image(cuda_backend):
    """More than 2^31 elements: the last rows' regions see what they see of those rows alone."""
    if torch.cuda.mem_get_info()[0] < NEEDED:
        pytest.skip("needs 40 GiB of free GPU memory")
    shape = (1, CHANNELS, SIZE, SIZE)
    assert torch.Size(shape).numel() > 2**31
    input = torch.randn(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    x = torch.arange(0.0, SIZE - 50, 100, device="cuda")
    boxes = torch.stack([0 * x, x, 0 * x + 12, x + 40, 0 * x + 60], 1)
    shift = torch.tensor([0, 0, SIZE - 64, 0, SIZE - 64], device="cuda")
    found = {}
    for name, image, there in (
        (cuda_backend, input, boxes + shift),
        ("reference", input[:, :, -64:].float(), boxes),
    ):
        image = image.detach().requires_grad_()
        with use_backend(name):
            output = deform_roi_pool(image, there, 7, sampling_ratio=2)
        (gradient,) = torch.autograd.grad(output, image, torch.ones_like(output))
        found[name] = output.detach(), gradient[:, :, -64:]
    tolerance = tolerance_of(cuda_backend, torch.bfloat16)
    for name, i in (("forward", 0), ("backward", 1)):
        assert_near(found[cuda_backend][i], found["reference"][i], getattr(tolerance, name), name)
