"""Streams, graphs, determinism, TF32, memory, autocast and compilation on a GPU."""

import pytest
import torch

from dcn_backbones.ops import deform_conv2d, use_backend

from ..ops.cases import Case, named_leaves
from ..ops.compare import assert_near, tolerance_of

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

CASE = Case(batch=4, channels=64, out_channels=48, size=(28, 31), offset_groups=2)
WORKSPACE = 64 * 2**20  # bytes, of columns and sums with the allocator's rounding, whatever the batch


def tensors_on(device: str, case: Case = CASE, dtype: torch.dtype = torch.float32) -> dict:
    """Channels-last, as the fast path wants them."""
    tensors = {name: t for name, t in case.tensors(dtype).items() if t is not None}
    return {
        name: t.to(device, memory_format=torch.channels_last) if t.dim() == 4 else t.to(device)
        for name, t in tensors.items()
    }


def forward_and_backward(backend: str, leaves: dict, case: Case = CASE) -> list[torch.Tensor]:
    with use_backend(backend):
        output = deform_conv2d(**leaves, **case.settings)
    return [output, *torch.autograd.grad(output, list(leaves.values()), torch.ones_like(output))]


def expected(tensors: dict, case: Case = CASE) -> list[torch.Tensor]:
    """The reference's results in float64, for the same numbers."""
    leaves = named_leaves({name: t.double() for name, t in tensors.items()})
    return [t.detach() for t in forward_and_backward("reference", leaves, case)]


def assert_all_near(backend: str, found: list, wanted: list) -> None:
    tolerance = tolerance_of(backend, found[0].dtype)
    for i, (result, value) in enumerate(zip(found, wanted, strict=True)):
        assert_near(result, value, tolerance.backward if i else tolerance.forward, f"result {i}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_captured_graph_replays_on_new_numbers(cuda_backend, dtype):
    leaves = named_leaves(tensors_on("cuda", dtype=dtype))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, loads and allocates what a capture may not
        for _ in range(3):
            forward_and_backward(cuda_backend, leaves)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = forward_and_backward(cuda_backend, leaves)
    fresh = {name: leaf.detach().roll(1, 0) * 0.5 for name, leaf in leaves.items()}
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(fresh[name])
    graph.replay()
    assert_all_near(cuda_backend, found, expected(fresh))


def test_another_stream_than_the_default(cuda_backend):
    """The input is written on that stream after a long wait: a launch elsewhere would read what was there."""
    tensors = tensors_on("cuda")
    forward_and_backward(cuda_backend, named_leaves(tensors))
    wanted = expected(tensors)
    late = {name: torch.zeros_like(t) for name, t in tensors.items()}
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for name, tensor in tensors.items():
            late[name].copy_(tensor)
        found = forward_and_backward(cuda_backend, {k: t.requires_grad_() for k, t in late.items()})
    stream.synchronize()
    assert_all_near(cuda_backend, found, wanted)


def test_nothing_waits_for_the_device(cuda_backend):
    leaves = named_leaves(tensors_on("cuda"))
    forward_and_backward(cuda_backend, leaves)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = forward_and_backward(cuda_backend, leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(t.isfinite().all() for t in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_deterministic_algorithms_give_the_same_bits(cuda_backend, dtype):
    """All samples near one pixel: thousands of additions meet there."""
    tensors = tensors_on("cuda", dtype=dtype)
    rows = torch.arange(CASE.output_size[0], device="cuda").view(1, 1, -1, 1)
    columns = torch.arange(CASE.output_size[1], device="cuda")
    noise = 0.3 * tensors["offset"]
    is_y = torch.arange(36, device="cuda").view(-1, 1, 1) % 2 == 0
    tensors["offset"] = noise + torch.where(is_y, 10 - rows, 10 - columns)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [forward_and_backward(cuda_backend, named_leaves(tensors)) for _ in range(5)]
    finally:
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))
    assert_all_near(cuda_backend, runs[0], expected(tensors))


@pytest.mark.parametrize("name", ["offset", "weight", "bias", "mask"])
def test_tensors_on_two_devices_are_refused_before_anything_is_launched(cuda_backend, name):
    tensors = tensors_on("cuda")
    tensors[name] = tensors[name].cpu()
    with use_backend(cuda_backend), pytest.raises(ValueError, match=f"{name} is on cpu, expected cuda"):
        deform_conv2d(**tensors, **CASE.settings)
    torch.cuda.synchronize()


@pytest.mark.parametrize("device", range(torch.cuda.device_count()))
def test_the_device_of_the_tensors_counts_not_the_current_one(cuda_backend, device):
    tensors = tensors_on(f"cuda:{device}")
    with torch.cuda.device(torch.cuda.device_count() - 1 - device):
        found = forward_and_backward(cuda_backend, named_leaves(tensors))
    assert all(t.device.index == device for t in found)
    assert_all_near(cuda_backend, found, expected(tensors))


def test_float32_products_follow_torchs_flag(cuda_backend):
    tensors = tensors_on("cuda")
    wanted = expected(tensors)[0]
    errors = {}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        try:
            output = forward_and_backward(cuda_backend, named_leaves(tensors))[0]
        finally:
            torch.set_float32_matmul_precision("highest")
        errors[precision] = ((output - wanted).abs().max() / wanted.abs().max()).item()
    assert errors["highest"] < tolerance_of(cuda_backend, torch.float32).forward
    if torch.cuda.get_device_capability() >= (8, 0):  # older ones have no TF32
        assert 1e-5 < errors["high"] < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [16, 64])
def test_memory_beside_the_tensors_is_bounded(cuda_backend, dtype, batch):
    """Columns of all 64 images would take 236 MiB in float32, and their gradient as much again."""
    case = Case(batch=batch, channels=256, out_channels=256, size=(14, 30), bias=False)
    leaves = named_leaves(tensors_on("cuda", case, dtype))
    forward_and_backward(cuda_backend, leaves, case)  # cuBLAS keeps a workspace of its own
    forward, backward = _peaks(cuda_backend, leaves, case)
    weight = 2 * 4 * leaves["weight"].numel()  # its gradient in float32, and a block's share of it
    assert forward <= WORKSPACE
    assert backward <= WORKSPACE + weight


def _peaks(backend: str, leaves: dict, case: Case) -> tuple[int, int]:
    """Bytes at the peak of forward and of backward beyond all tensors that come in and go out."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with use_backend(backend):
        output = deform_conv2d(**leaves, **case.settings)
    forward = torch.cuda.max_memory_allocated() - before - output.nbytes
    grad_output = torch.ones_like(output)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradients = torch.autograd.grad(output, list(leaves.values()), grad_output)
    backward = torch.cuda.max_memory_allocated() - before - sum(g.nbytes for g in gradients)
    return forward, backward


def test_autocast_computes_in_half_and_leaves_positions(cuda_backend):
    leaves = named_leaves(tensors_on("cuda"))
    with use_backend(cuda_backend), torch.autocast("cuda", dtype=torch.bfloat16):
        output = deform_conv2d(**leaves, **CASE.settings)
    output.backward(torch.ones_like(output))
    assert output.dtype == torch.bfloat16
    assert all(leaf.grad.dtype == torch.float32 for leaf in leaves.values())
    operands = ("input", "weight", "bias")
    rounded = {k: t.detach().bfloat16() if k in operands else t.detach() for k, t in leaves.items()}
    gradients = [leaf.grad for leaf in leaves.values()]
    assert_all_near(cuda_backend, [output, *gradients], expected(rounded))


def test_inductor_compiles_around_the_operator(cuda_backend):
    tensors = tensors_on("cuda")

    def layer(t: dict) -> torch.Tensor:
        return (deform_conv2d(**t, **CASE.settings).relu() * 2).sum((2, 3))

    with use_backend(cuda_backend):
        assert_near(torch.compile(layer, fullgraph=True)(tensors), layer(tensors), 1e-5)


def test_a_network_trains_in_bfloat16(cuda_backend):
    import timm

    import dcn_backbones  # noqa: F401

    model = timm.create_model("dcnv2_resnet18", num_classes=4, zero_init_last=False)
    model = model.to("cuda", memory_format=torch.channels_last)
    images = torch.randn(8, 3, 64, 64, device="cuda").contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    losses = []
    for _ in range(8):
        with use_backend(cuda_backend), torch.autocast("cuda", dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), torch.arange(8, device="cuda") % 4)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    weight = model.layer2[1].conv2.conv_offset.weight
    assert weight.detach().any(), "the offsets did not learn"
