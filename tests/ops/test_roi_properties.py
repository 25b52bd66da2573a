"""RoI pooling equals the equations and, gradients included, the reference, whatever the configuration.

Found by hypothesis, not chosen; `make fuzz` sets `DCN_FUZZ_CASES` to ten thousand. Sizes are such that
positions are exact in float32: else two backends could fall on different sides of a border or a pixel.
"""

import pytest
import torch

from . import roi_oracles
from .compare import assert_near, tolerance_of, types_of
from .roi_cases import RoICase, run, with_leaves

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

from .test_properties import assert_same_as_reference, drawn_tensors, fuzzed, with_gradients

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
    return with_gradients(run(backend, case, arguments), leaves)


@fuzzed
@given(data=st.data())
def test_backends_equal_the_equations_and_the_reference(roi_backend, data):
    case = data.draw(configurations())
    dtype = data.draw(st.sampled_from(types_of(roi_backend)))
    tensors = drawn_tensors(data, case, dtype)
    if case.offset:
        tensors["offset"] = (tensors["offset"] * 8).round() / 8
    found, expected = results(roi_backend, case, tensors), results("reference", case, tensors)
    tolerance = tolerance_of(roi_backend, dtype)
    doubles = {name: None if t is None else t.double() for name, t in tensors.items()}
    assert_near(found["output"], roi_oracles.dense(case, **doubles), tolerance.forward, "output")
    assert_same_as_reference(found, expected, tolerance)
