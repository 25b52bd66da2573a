"""What the RoI operator owes PyTorch: opcheck, compile, export, vmap, transforms, autocast, FLOPs."""

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from dcn_backbones.ops import deform_roi_pool, use_backend

from .compare import assert_gradients_can_be_batched, assert_near, assert_same, assert_tangents
from .roi_cases import AWKWARD, RoICase, call, with_leaves
from .test_registration import compiled, count_flops, dual_level, jvp

CASE = RoICase()
SMALL = RoICase(out_channels=2, batch=2, size=(4, 5), regions=3, sides=(1.0, 4.0), output_size=(2, 1))
OPERATOR = torch.ops.dcn_backbones.deform_roi_pool


def operator_arguments(case: RoICase, backend: str) -> list:
    tensors, _ = with_leaves(case.tensors(torch.float32))
    if tensors["mask"] is not None:
        tensors["mask"] = tensors["mask"].detach().unsqueeze(1).requires_grad_()
    return [*tensors.values(), *case.operator_settings, backend]


@pytest.mark.parametrize("name", ["modulated", "plain", "sensitive_groups_3", "regions_0", "adaptive"])
def test_opcheck_forward(roi_backend, name):
    torch.library.opcheck(OPERATOR, operator_arguments(AWKWARD[name], roi_backend))


@pytest.mark.parametrize("name", ["modulated", "offset_only", "sensitive_groups_3"])
def test_opcheck_backward(roi_backend, name):
    arguments = [
        a.detach() if isinstance(a, torch.Tensor) else a
        for a in operator_arguments(AWKWARD[name], roi_backend)
    ]
    needs = [True, False, arguments[3] is not None]
    # Not the autograd registration: its test wants a gradient of every result; those not needed are empty.
    torch.library.opcheck(
        torch.ops.dcn_backbones.deform_roi_pool_backward,
        [torch.randn_like(OPERATOR(*arguments)), *arguments, needs],
        test_utils=["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"],
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["adaptive", "sensitive_groups_3"])
def test_compile_fullgraph(roi_backend, name, memory_format):
    case = AWKWARD[name]
    tensors = case.tensors(torch.float32)
    tensors["input"] = tensors["input"].contiguous(memory_format=memory_format)

    def function(tensors):
        return call(case, tensors).sin()

    with use_backend(roi_backend):
        (eager, eager_leaves), (traced, traced_leaves) = with_leaves(tensors), with_leaves(tensors)
        eager_output, output = function(eager), compiled(function, fullgraph=True)(traced)
        assert_near(output, eager_output.detach(), 1e-6)
        assert output.stride() == eager_output.stride()
        eager_output.sum().backward()
        output.sum().backward()
    for name, leaf in traced_leaves.items():
        assert_near(leaf.grad, eager_leaves[name].grad, 1e-5, name)


def test_compile_with_a_list_of_boxes():
    tensors = CASE.tensors(torch.float32)
    tensors["boxes"] = [tensors["boxes"][:3, 1:], tensors["boxes"][3:, 1:]]
    found = compiled(lambda t: call(CASE, t), fullgraph=True)(tensors)
    assert_near(found, call(CASE, tensors), 1e-6)


def test_compile_with_dynamic_shapes():
    function = compiled(call, fullgraph=True, dynamic=True)
    for size, regions in [((6, 7), 4), ((8, 5), 9), ((9, 9), 3)]:
        case = RoICase(size=size, regions=regions)
        tensors = case.tensors(torch.float32)
        assert_near(function(case, tensors), call(case, tensors), 1e-6)


class _Module(torch.nn.Module):
    def forward(self, input, boxes, offset, mask):
        return deform_roi_pool(input, boxes, CASE.output_size, CASE.spatial_scale, -1, offset, mask)


def test_export_with_a_dynamic_number_of_regions():
    tensors = CASE.tensors(torch.float32)
    dim = torch.export.Dim("regions", min=1, max=1000)
    program = torch.export.export(
        _Module(), tuple(tensors.values()), dynamic_shapes=[None, {0: dim}, {0: dim}, {0: dim}]
    )
    assert any("deform_roi_pool" in str(node.target) for node in program.graph.nodes)
    more = [tensors["input"], *(torch.cat([t, t.flip(0)]) for t in list(tensors.values())[1:])]
    assert_near(program.module()(*more), _Module()(*more), 1e-6)


@pytest.mark.parametrize("mapped", ["input", "boxes", "offset", "mask", "all"])
def test_vmap_equals_a_loop(roi_backend, mapped):
    tensors = CASE.tensors()
    names = list(tensors) if mapped == "all" else [mapped]
    stacked = {k: torch.stack([t, t.flip(0), t.roll(1, 0)]) if k in names else t for k, t in tensors.items()}
    dims = {k: 0 if k in names else None for k in tensors}
    with use_backend(roi_backend):
        found = torch.vmap(lambda t: call(CASE, t), in_dims=(dims,))(stacked)
        slices = [{k: t[i] if k in names else t for k, t in stacked.items()} for i in range(3)]
        expected = torch.stack([call(CASE, s) for s in slices])
    assert_near(found, expected, 1e-12)


def test_vmap_of_a_box_of_no_image_does_not_reach_the_next_batch():
    """The first of two batches asks for the image after its last, which is the first of the second."""
    tensors = CASE.tensors()
    boxes = torch.stack([tensors["boxes"]] * 2)
    boxes[0, 0, 0] = CASE.batch
    inputs = torch.stack([tensors["input"]] * 2)
    with pytest.raises(ValueError, match="boxes has image indices"):
        torch.vmap(lambda input, boxes: call(CASE, tensors | dict(input=input, boxes=boxes)))(inputs, boxes)


@pytest.mark.parametrize("name", ["modulated", "sensitive_groups_3"])
def test_batched_gradients_equal_a_loop(roi_backend, name):
    tensors, leaves = with_leaves(AWKWARD[name].tensors())
    with use_backend(roi_backend):
        output = call(AWKWARD[name], tensors)
    assert_gradients_can_be_batched(output, leaves)


def test_function_transforms_equal_autograd(roi_backend):
    tensors, leaves = with_leaves(SMALL.tensors())
    boxes = tensors["boxes"]

    def loss(t):
        return call(SMALL, dict(boxes=boxes) | t).sin().sum()

    with use_backend(roi_backend):
        expected = torch.autograd.grad(loss(leaves), list(leaves.values()))
        plain = {name: leaf.detach() for name, leaf in leaves.items()}
        found, traced = torch.func.grad(loss)(plain), compiled(torch.func.grad(loss))(plain)
    for name, gradient in zip(leaves, expected, strict=True):
        assert_near(found[name], gradient, 1e-11, name)
        assert_near(traced[name], gradient, 1e-11, name)


@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_per_sample_gradients(roi_backend, sampling_ratio):
    """Also where boxes are mapped and decide the sampling: then there is no one number of points to read."""
    case = replace(SMALL, sampling_ratio=sampling_ratio)
    samples = [case.tensors(seed=seed) for seed in range(3)]
    stacked = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def loss(offset, others):
        return call(case, others | dict(offset=offset)).square().sum()

    with use_backend(roi_backend):
        found = torch.vmap(torch.func.grad(loss))(stacked.pop("offset"), stacked)
        for i, sample in enumerate(samples):
            offset = sample.pop("offset").requires_grad_()
            (expected,) = torch.autograd.grad(loss(offset, sample), offset)
            assert_near(found[i], expected, 1e-11)


def test_the_traced_formula_takes_any_number_of_regions():
    """Where it is differentiated by function transforms, which trace the formula, not the operator."""

    def loss(offset, others):
        return call(CASE, others | dict(offset=offset)).sin().sum()

    def arguments(regions: int) -> tuple:
        tensors = replace(CASE, regions=regions).tensors()
        return tensors.pop("offset"), tensors

    gradient = torch.func.grad(loss)
    traced = make_fx(gradient, tracing_mode="symbolic")(*arguments(7))
    assert_near(traced(*arguments(11)), gradient(*arguments(11)), 1e-11)


@pytest.mark.parametrize(
    "differentiate",
    [jvp, dual_level, lambda function, *values: compiled(lambda *v: jvp(function, *v))(*values)],
)
def test_forward_mode_tangents_are_not_zero(roi_backend, differentiate):
    torch.compiler.reset()
    tensors = SMALL.tensors()

    def function(offset):
        return call(SMALL, tensors | dict(offset=offset))

    with use_backend(roi_backend):
        assert_tangents(differentiate, function, tensors["offset"], 0.01)


def test_the_operator_refuses_forward_mode():
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in operator_arguments(SMALL, "")]
    with pytest.raises(RuntimeError, match="The operator deform_roi_pool .* forward-mode level"):
        jvp(lambda t: OPERATOR(t, *arguments[1:]), arguments[0], arguments[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_the_input_and_leaves_positions(roi_backend, dtype):
    # At column 300 a half position is off by up to an eighth (float16) or a whole pixel (bfloat16).
    image = torch.arange(400.0).remainder(2).expand(1, 1, 1, 400).clone().requires_grad_()
    boxes = torch.tensor([[0.0, 301.5, 0.0, 301.625, 1.0]])  # the middle is at column 301.0625
    with use_backend(roi_backend), torch.autocast(image.device.type, dtype=dtype):
        output = deform_roi_pool(image, boxes, 1, sampling_ratio=1)
        output.sum().backward()
    assert output.dtype == dtype and image.grad.dtype == torch.float32
    assert output.item() == 0.9375
    assert image.grad[0, 0, 0, 301:303].tolist() == [0.9375, 0.0625]


def test_autocast_does_not_reach_into_a_backend(roi_backend):
    """What a backend computes in float32 stays so: the same bits as from half tensors without autocast."""
    tensors = CASE.tensors(torch.float16)
    (inside, inside_leaves), (plain, plain_leaves) = with_leaves(tensors), with_leaves(tensors)
    with use_backend(roi_backend):
        with torch.autocast(tensors["input"].device.type, dtype=torch.float16):
            output = call(CASE, inside)
            output.sum().backward()
        expected = call(CASE, plain)
        expected.sum().backward()
    assert torch.equal(output, expected)
    for name, leaf in inside_leaves.items():
        assert_same(leaf.grad, plain_leaves[name].grad, roi_backend, name)


def test_flops_are_known_to_be_zero():
    """Sampling is not counted, here as in the convolution; the counter has to be told."""
    tensors, _ = with_leaves(CASE.tensors(torch.float32))
    assert count_flops(deform_roi_pool, tensors, CASE) == (0, 0)
    for operator in (OPERATOR, torch.ops.dcn_backbones.deform_roi_pool_backward):
        assert operator in torch.utils.flop_counter.flop_registry
