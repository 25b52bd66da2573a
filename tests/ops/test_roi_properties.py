"""RoI pooling equals the equations and, gradients included, the reference, whatever the configuration.

Found by hypothesis, not chosen; `make fuzz` sets `DCN_FUZZ_CASES` to ten thousand. Sizes are such that
positions are exact in float32: else two backends could fall on different sides of a border or a pixel.
"""

import pytest
import torch

from . import roi_oracles
from .compare import assert_near, tolerance_of, types_of
from .roi_cases import RoICase, run, with_leaves
from .test_properties import CASES, HOSTILE, laid_out, make_hostile

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

power_of_two = st.sampled_from([1, 2, 4])


@st.composite
def configurations(draw) -> RoICase:
    groups = draw(st.integers(1, 3))
    sensitive = draw(st.booleans())
    least = draw(st.sampled_from([-4.0, 0.0, 1.0]))
    return RoICase(
        batch=draw(st.integers(1, 3)),
        out_channels=groups * draw(st.integers(1, 9)),
        size=(draw(st.integers(1, 9)), draw(st.integers(1, 9))),
        regions=draw(st.integers(0, 5)),
        sides=(least, least + draw(st.sampled_from([0.0, 3.0, 12.0]))),
        output_size=(draw(power_of_two), draw(power_of_two)),
        spatial_scale=draw(st.sampled_from([0.25, 1.0, 2.0])),
        sampling_ratio=draw(st.sampled_from([-1, 0, 1, 2, 4])),
        gamma=draw(st.sampled_from([0.125, 1.0])),
        offset=draw(st.booleans()),
        mask=not sensitive and draw(st.booleans()),
        spread=draw(st.sampled_from([0.0, 0.5, 3.0])),
        position_sensitive=sensitive,
        offset_groups=groups if sensitive else 1,
    )


def results(backend: str, case: RoICase, tensors: dict) -> dict[str, torch.Tensor]:
    arguments, leaves = with_leaves(tensors)
    output = run(backend, case, arguments)
    # Small whole numbers are exact in every type.
    grad_output = (torch.arange(output.numel()) % 5 - 2).view(output.shape).to(output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad_output)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


@settings(
    max_examples=CASES, deadline=None, derandomize=CASES <= 200, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_backends_equal_the_equations_and_the_reference(roi_backend, data):
    case = data.draw(configurations())
    dtype = data.draw(st.sampled_from(types_of(roi_backend)))
    layouts = data.draw(st.tuples(*[st.sampled_from(["contiguous", "channels_last", "transposed"])] * 2))
    tensors = case.tensors(dtype, seed=data.draw(st.integers(0, 1000)))
    tensors = {k: laid_out(t, layouts[k == "input"]) for k, t in tensors.items()}
    if case.offset:
        tensors["offset"] = (tensors["offset"] * 8).round() / 8
        if data.draw(st.booleans()):
            value, share = data.draw(st.sampled_from(HOSTILE)), data.draw(st.sampled_from([0.02, 0.5, 1]))
            tensors["offset"] = make_hostile(tensors["offset"], value, share)
    found, expected = results(roi_backend, case, tensors), results("reference", case, tensors)
    tolerance = tolerance_of(roi_backend, dtype)
    doubles = {name: None if t is None else t.double() for name, t in tensors.items()}
    assert_near(found["output"], roi_oracles.dense(case, **doubles), tolerance.forward, "output")
    for name, tensor in found.items():
        # The reference rounds its own results: both may use up their tolerance.
        allowed = tolerance.forward if name == "output" else tolerance.backward
        assert_near(tensor, expected[name], 2 * allowed, name)
        assert tensor.stride() == expected[name].stride(), name
