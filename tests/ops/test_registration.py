"""What the custom operator owes PyTorch: opcheck, compile, export, vmap, transforms, autocast, FLOPs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dcn_backbones.ops import deform_conv2d, use_backend

from .cases import AWKWARD, Case, named_leaves
from .compare import assert_gradients_can_be_batched, assert_near, assert_same, assert_tangents

CASE = Case(channels=8, groups=2, offset_groups=2, size=(6, 7))
SMALL = Case(channels=2, out_channels=2, batch=1, size=(4, 4))


def call(case: Case, tensors: dict) -> torch.Tensor:
    return deform_conv2d(**tensors, **case.settings)


def compiled(function, **options):
    return torch.compile(function, backend="aot_eager", **options)


def operator_arguments(case: Case, backend: str, dtype=torch.float32) -> list:
    tensors = case.tensors(dtype)
    for t in tensors.values():
        if t is not None:
            t.requires_grad_()
    order = ("input", "offset", "weight", "bias", "mask")
    settings = [list(case.stride), list(case.padding), list(case.dilation)]
    return [tensors[name] for name in order] + settings + [backend]


@pytest.mark.parametrize("name", ["modulated", "unmodulated", "groups_2_offset_groups_3", "batch_0"])
def test_opcheck_forward(own_backend, name):
    arguments = operator_arguments(AWKWARD[name], own_backend)
    torch.library.opcheck(torch.ops.dcn_backbones.deform_conv2d, arguments)


@pytest.mark.parametrize("name", ["modulated", "unmodulated", "groups_2_offset_groups_3"])
def test_opcheck_backward(own_backend, name):
    input, offset, weight, bias, mask, *settings = operator_arguments(AWKWARD[name], own_backend)
    output = torch.ops.dcn_backbones.deform_conv2d(input, offset, weight, bias, mask, *settings)
    needs = [True, False, True, mask is not None]
    arguments = [torch.randn_like(output), input, offset, weight, mask, *settings, needs]
    # Not the autograd registration: its test wants a gradient of every result; those not needed are empty.
    torch.library.opcheck(
        torch.ops.dcn_backbones.deform_conv2d_backward,
        [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments],
        test_utils=["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"],
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_compile_fullgraph(own_backend, memory_format):
    tensors = CASE.tensors(torch.float32)
    tensors["input"] = tensors["input"].contiguous(memory_format=memory_format)

    def function(**tensors):
        return deform_conv2d(**tensors, **CASE.settings).relu()

    with use_backend(own_backend):
        expected, found = named_leaves(tensors), named_leaves(tensors)
        eager_output, output = function(**expected), compiled(function, fullgraph=True)(**found)
        assert_near(output, eager_output.detach(), 1e-6)
        assert output.stride() == eager_output.stride()
        eager_output.square().sum().backward()
        output.square().sum().backward()
    for name, leaf in found.items():
        assert_near(leaf.grad, expected[name].grad, 1e-5, name)


def test_compile_with_dynamic_shapes():
    function = compiled(call, fullgraph=True, dynamic=True)
    for size in [(6, 7), (8, 5), (9, 9)]:
        case = Case(size=size)
        tensors = case.tensors(torch.float32)
        assert_near(function(case, tensors), call(case, tensors), 1e-6)


class _Module(torch.nn.Module):
    def __init__(self, case: Case):
        super().__init__()
        self.case, tensors = case, case.tensors(torch.float32)
        self.weight = torch.nn.Parameter(tensors["weight"])

    def forward(self, input, offset, mask):
        return deform_conv2d(input, offset, self.weight, mask=mask, **self.case.settings)


def test_export_with_a_dynamic_batch():
    module, tensors = _Module(CASE), CASE.tensors(torch.float32)
    arguments = (tensors["input"], tensors["offset"], tensors["mask"])
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, arguments, dynamic_shapes=[{0: batch}] * 3)
    assert any("deform_conv2d" in str(node.target) for node in program.graph.nodes)
    larger = [torch.cat([t, 2 * t, t[:1]]) for t in arguments]
    assert_near(program.module()(*larger), module(*larger), 1e-6)


@pytest.mark.parametrize("mapped", ["input", "weight", "bias", "all"])
def test_vmap_equals_a_loop(own_backend, mapped):
    tensors = CASE.tensors(torch.float64)
    names = list(tensors) if mapped == "all" else [mapped]
    stacked = {k: torch.stack([t, 2 * t, -t]) if k in names else t for k, t in tensors.items()}
    dims = {k: 0 if k in names else None for k in tensors}
    with use_backend(own_backend):
        found = torch.vmap(lambda t: call(CASE, t), in_dims=(dims,))(stacked)
        slices = [{k: t[i] if k in names else t for k, t in stacked.items()} for i in range(3)]
        expected = torch.stack([call(CASE, s) for s in slices])
    assert_near(found, expected, 1e-12)


def test_batched_gradients_equal_a_loop(own_backend):
    leaves = named_leaves(CASE.tensors(torch.float64))
    with use_backend(own_backend):
        output = call(CASE, leaves)
    assert_gradients_can_be_batched(output, leaves)


def test_function_transforms_equal_autograd(own_backend):
    tensors = SMALL.tensors(torch.float64)
    leaves = named_leaves(tensors)
    with use_backend(own_backend):
        expected = torch.autograd.grad(call(SMALL, leaves).sin().sum(), list(leaves.values()))
        found = torch.func.grad(lambda t: call(SMALL, t).sin().sum())(tensors)
        traced = compiled(torch.func.grad(lambda t: call(SMALL, t).sin().sum()))(tensors)
    for name, gradient in zip(leaves, expected, strict=True):
        assert_near(found[name], gradient, 1e-11, name)
        assert_near(traced[name], gradient, 1e-11, name)


def test_per_sample_gradients(own_backend):
    tensors = SMALL.tensors(torch.float64)
    inputs = torch.randn(3, *tensors["input"].shape, dtype=torch.float64)

    def loss(weight, input):
        return call(SMALL, tensors | dict(weight=weight, input=input)).square().sum()

    with use_backend(own_backend):
        found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(tensors["weight"], inputs)
        for i in range(3):
            weight = tensors["weight"].clone().requires_grad_()
            (expected,) = torch.autograd.grad(loss(weight, inputs[i]), weight)
            assert_near(found[i], expected, 1e-11)


def jvp(function, primal, tangent):
    return torch.func.jvp(function, (primal,), (tangent,))[1]


def dual_level(function, primal, tangent):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(primal, tangent)
        return torch.autograd.forward_ad.unpack_dual(function(dual)).tangent


@pytest.mark.parametrize(
    "differentiate",
    [
        jvp,
        dual_level,
        lambda function, *values: jvp(compiled(function), *values),
        lambda function, *values: dual_level(compiled(function), *values),
        lambda function, *values: compiled(lambda *v: jvp(function, *v))(*values),
    ],
    ids=["jvp", "dual_level", "jvp_of_compiled", "dual_level_of_compiled", "compiled_jvp"],
)
def test_forward_mode_tangents_are_not_zero(own_backend, differentiate):
    torch.compiler.reset()  # torch 2.11 would take a graph of another level
    tensors = SMALL.tensors(torch.float64)

    def function(offset):
        return call(SMALL, tensors | dict(offset=offset))

    with use_backend(own_backend):
        assert_tangents(differentiate, function, tensors["offset"], 0.1)


def test_a_graph_without_tangents_refuses_forward_mode():
    tensors = SMALL.tensors(torch.float32)
    function = compiled(lambda offset: call(SMALL, tensors | dict(offset=offset)))
    function(tensors["offset"])
    try:
        found = dual_level(function, tensors["offset"], torch.ones_like(tensors["offset"]))
    except RuntimeError as error:
        assert "traced outside of the forward-mode level" in str(error)
    else:  # a torch that guards on the level has traced again
        assert found.abs().max() > 0.1
    with pytest.raises(RuntimeError, match="forward-mode level"):
        jvp(lambda t: torch.ops.dcn_backbones.deform_conv2d(t, *list_of(tensors)), *2 * [tensors["input"]])


def list_of(tensors: dict) -> list:
    """The operator's arguments after the input."""
    return [tensors[k] for k in ("offset", "weight", "bias", "mask")] + [[1, 1], [1, 1], [1, 1], ""]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_input_and_weight_and_leaves_positions(own_backend, dtype):
    # At column 300 a half position is off by up to an eighth (float16) or a whole pixel (bfloat16).
    image = torch.arange(400.0).remainder(2).expand(1, 1, 1, 400).clone().requires_grad_()
    offset = torch.zeros(1, 2, 1, 400)
    offset[0, 1, 0, 0] = 301.0625
    weight = torch.ones(1, 1, 1, 1, requires_grad=True)
    with use_backend(own_backend), torch.autocast(image.device.type, dtype=dtype):
        output = deform_conv2d(image, offset, weight)
        output[0, 0, 0, 0].backward()
    assert output.dtype == dtype and image.grad.dtype == torch.float32
    assert output[0, 0, 0, 0].item() == 0.9375
    assert image.grad[0, 0, 0, 301:303].tolist() == [0.9375, 0.0625]


def test_autocast_does_not_reach_into_a_backend(own_backend):
    """What a backend computes in float32 stays so: the same bits as from half tensors without autocast."""
    tensors = CASE.tensors(torch.float16)
    leaves, plain = named_leaves(tensors), named_leaves(tensors)
    with use_backend(own_backend):
        with torch.autocast(tensors["input"].device.type, dtype=torch.float16):
            output = call(CASE, leaves)
            output.sum().backward()
        expected = call(CASE, plain)
        expected.sum().backward()
    assert torch.equal(output, expected)
    for name, leaf in leaves.items():
        assert_same(leaf.grad, plain[name].grad, own_backend, name)


@pytest.mark.parametrize("name", ["modulated", "groups_2_offset_groups_3", "kernel_3x2_stride_2x1"])
def test_flops_are_twice_the_multiply_adds(name):
    case = AWKWARD[name]
    leaves = named_leaves(case.tensors(torch.float32))
    counted = count_flops(deform_conv2d, leaves, case)
    height, width = case.output_size
    multiply_adds = case.batch * height * width * leaves["weight"].numel()
    assert counted == (2 * multiply_adds, 4 * multiply_adds)


def test_flops_are_those_of_the_plain_convolution():
    leaves = named_leaves(SMALL.tensors(torch.float32))
    plain = {k: leaves[k] for k in ("input", "weight", "bias")}
    assert count_flops(deform_conv2d, leaves, SMALL) == count_flops(torch.nn.functional.conv2d, plain, SMALL)


def test_flops_of_the_weight_gradient_alone():
    tensors = SMALL.tensors(torch.float32)
    tensors["weight"].requires_grad_()
    forward, backward = count_flops(deform_conv2d, tensors, SMALL)
    assert backward == forward


def count_flops(function, arguments: dict, case: Case) -> tuple[int, int]:
    with FlopCounterMode(display=False) as forward:
        output = function(**arguments, **case.settings)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()
