"""Which backend runs, who says so, and what it says when it cannot."""

import itertools
import logging
import re
import subprocess
import sys
import threading

import pytest
import torch

from dcn_backbones.ops import available_backends, deform_conv2d, dispatch, use_backend
from dcn_backbones.ops.backends.base import OPERATORS, Backend, Request
from dcn_backbones.ops.backends.extension import cpu_capability
from dcn_backbones.ops.backends.reference import ReferenceBackend

from .cases import Case
from .roi_cases import AWKWARD, RoICase, call, with_leaves

CASE = Case()


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What ran: "NAME forward", "NAME backward", in order."""
    seen = []
    for backend in dispatch.BACKENDS.values():
        for operator, direction in itertools.product(OPERATORS, ("forward", "backward")):
            original = getattr(backend, f"{operator}_{direction}")

            def spy(*args, _original=original, _label=f"{backend.name} {direction}"):
                seen.append(_label)
                return _original(*args)

            monkeypatch.setattr(backend, f"{operator}_{direction}", spy)
    return seen


def output(**changes) -> torch.Tensor:
    tensors = CASE.tensors(torch.float32) | changes
    tensors["weight"].requires_grad_()
    return deform_conv2d(**tensors, **CASE.settings)


def test_backends_are_listed_in_order_of_preference():
    names = available_backends()
    assert [name for name in dispatch.BACKENDS if name in names] == names
    assert "reference" in names


def test_backward_runs_on_the_forwards_backend_after_the_block_and_on_another_thread(backend, calls):
    with use_backend(backend):
        result = output()
    thread = threading.Thread(target=result.sum().backward)
    thread.start()
    thread.join()
    assert calls == [f"{backend} forward", f"{backend} backward"]


def test_pooling_too_runs_backward_on_the_forwards_backend(plain_roi_backend, calls):
    case = AWKWARD["plain"]
    tensors, _ = with_leaves(case.tensors(torch.float32))
    with use_backend(plain_roi_backend):
        result = call(case, tensors)
    result.sum().backward()
    assert calls == [f"{plain_roi_backend} forward", f"{plain_roi_backend} backward"]


def test_a_backend_without_an_operator_is_passed_over_for_it_alone(monkeypatch, caplog, calls):
    first = next(iter(dispatch.BACKENDS.values()))
    monkeypatch.setattr(first, "operators", frozenset({"deform_conv2d"}))
    dispatch._select.cache_clear()
    dispatch._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        call(RoICase(), RoICase().tensors(torch.float32))
    dispatch._select.cache_clear()
    assert calls == ["reference forward"]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("dcn_backbones")]
    assert len(said) == 1 and said[0].startswith("Running deform_roi_pool on the backend 'reference'")
    assert f"'{first.name}', since it has no deform_roi_pool on cpu yet" in said[0]


def test_a_compiled_function_keeps_the_backend_of_its_tracing(calls):
    tensors = CASE.tensors(torch.float32)
    tensors["weight"].requires_grad_()
    compiled = torch.compile(
        lambda t: deform_conv2d(**t, **CASE.settings), fullgraph=True, backend="aot_eager"
    )
    with use_backend("reference"):
        compiled(tensors)
    calls.clear()
    compiled(tensors).sum().backward()
    assert calls == ["reference forward", "reference backward"]


def test_blocks_nest_and_end():
    assert dispatch.forced_backend() == ""
    with use_backend("reference"):
        with use_backend("torchvision"):
            assert dispatch.forced_backend() == "torchvision"
        assert dispatch.forced_backend() == "reference"
    assert dispatch.forced_backend() == ""


def test_the_environment_names_a_backend_and_a_block_goes_before_it(calls, monkeypatch):
    monkeypatch.setenv("DCN_BACKEND", "reference")
    output()
    with use_backend("torchvision"):
        output()
    assert calls == ["reference forward", "torchvision forward"]


def test_torchvision_is_never_chosen(monkeypatch):
    others = [b for name, b in dispatch.BACKENDS.items() if name != "torchvision"]
    for backend in others:
        monkeypatch.setattr(backend, "unavailable_reasons", lambda: ["it is switched off"])
    dispatch._select.cache_clear()
    with pytest.raises(RuntimeError, match="torchvision.*only when named"):
        output()
    dispatch._select.cache_clear()


def test_unknown_names_are_errors(monkeypatch):
    message = "use_backend names the backend 'cudnn', expected one of extension"
    with pytest.raises(ValueError, match=message), use_backend("cudnn"):
        pass
    monkeypatch.setenv("DCN_BACKEND", "cudnn")
    with pytest.raises(ValueError, match="DCN_BACKEND names the backend 'cudnn'"):
        output()


def test_a_named_backend_raises_with_all_its_reasons(monkeypatch):
    monkeypatch.setattr(ReferenceBackend, "devices", frozenset({"tpu"}))
    monkeypatch.setattr(ReferenceBackend, "dtypes", frozenset({torch.float64}))
    dispatch._select.cache_clear()
    with use_backend("reference"), pytest.raises(RuntimeError) as raised:
        output()
    dispatch._select.cache_clear()
    assert "it runs on tpu, the input is on cpu" in str(raised.value)
    assert "it takes torch.float64, the input is torch.float32" in str(raised.value)


def test_passing_over_a_faster_backend_is_said_once(monkeypatch, caplog):
    first = next(iter(dispatch.BACKENDS.values()))
    monkeypatch.setattr(first, "unavailable_reasons", lambda: ["it was not built"])
    dispatch._select.cache_clear()
    dispatch._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        output()
        output()
        output(input=torch.randn(2, 6, 7, 9, dtype=torch.float32))
    dispatch._select.cache_clear()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("dcn_backbones")]
    assert len(said) == 1
    assert "'reference'" in said[0] and f"'{first.name}', since it was not built" in said[0]


def test_deterministic_algorithms_are_asked_for():
    reasons = dispatch.BACKENDS["torchvision"].not_supported_reasons(Request("cuda", torch.float32, True))
    assert any("not deterministic on cuda" in reason for reason in reasons)
    assert not dispatch.BACKENDS["torchvision"].not_supported_reasons(Request("cpu", torch.float32, True))


def test_info_tells_versions_backends_and_reasons():
    run = subprocess.run(
        [sys.executable, "-m", "dcn_backbones.info"], capture_output=True, text=True, check=True
    )
    assert f"torch {torch.__version__}" in run.stdout
    assert "extension" not in available_backends() or f"CPU kernels: {cpu_capability()}\n" in run.stdout
    for operator in OPERATORS:
        _, _, lines = run.stdout.partition(f"backends of {operator}, the preferred first:\n")
        for name, backend in dispatch.BACKENDS.items():
            line = next(line for line in lines.splitlines() if line.split()[:1] == [name])
            on_cpu = not backend.not_supported_reasons(Request("cpu", torch.float32, False, operator, False))
            assert ("ready on any" in line or bool(re.search(r"ready on cpu\b", line))) == on_cpu, line


def test_every_declared_operator_has_both_directions():
    for name, backend in dispatch.BACKENDS.items():
        assert backend.operators <= set(OPERATORS)
        for operator in OPERATORS:
            for method in (f"{operator}_forward", f"{operator}_backward"):
                written = getattr(type(backend), method) is not getattr(Backend, method)
                assert written or operator not in backend.operators, f"{name} has no {method}"


def test_an_operator_that_a_backend_does_not_have_is_a_reason(monkeypatch):
    first = next(iter(dispatch.BACKENDS.values()))
    monkeypatch.setattr(first, "operators", frozenset())
    dispatch._select.cache_clear()
    with use_backend(first.name), pytest.raises(RuntimeError, match="it has no deform_conv2d on cpu yet"):
        output()
    dispatch._select.cache_clear()
