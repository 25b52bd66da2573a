"""The benchmark measures what it says, and refuses to report when results differ."""

import json
import sys

import pytest
import torch

from benchmarks import deform_conv2d, floors_cpu, peers, shapes
from dcn_backbones.ops.dispatch import BACKENDS

SMALL = shapes.Shape(16, (6, 8), stride=2)
needs_own = pytest.mark.skipif(not peers.own_backends(), reason="needs a backend worth timing")


@needs_own
@pytest.mark.parametrize("backward", [False, True])
def test_every_peer_is_timed_on_the_same_result(backward):
    row = deform_conv2d.measure(SMALL, 2, torch.float32, backward, repeats=2)
    names = {name.split()[0] for name in row["milliseconds"]}
    assert {"torchvision", "conv2d", *peers.own_backends()} <= names
    assert ("onnxruntime" in names) == (not backward)
    assert all(times["median"] > 0 for times in row["milliseconds"].values())
    ours = next(iter(row["milliseconds"].values()))["median"]
    assert row["over_floor"] == pytest.approx(ours / row["floor_ms"])


@needs_own
@pytest.mark.parametrize("broken", ["torchvision", *peers.own_backends()])
def test_a_wrong_result_is_not_reported(monkeypatch, broken):
    backend = BACKENDS[broken]
    forward = backend.deform_conv2d_forward
    monkeypatch.setattr(backend, "deform_conv2d_forward", lambda *arguments: 1.001 * forward(*arguments))
    with pytest.raises(SystemExit, match="No figures: on 16x6x8 /2 the results of"):
        deform_conv2d.measure(SMALL, 2, torch.float32, False, repeats=2)


@needs_own
def test_nan_is_not_reported(monkeypatch):
    backend = BACKENDS["torchvision"]
    forward = backend.deform_conv2d_forward
    monkeypatch.setattr(
        backend, "deform_conv2d_forward", lambda *arguments: float("nan") * forward(*arguments)
    )
    with pytest.raises(SystemExit, match="No figures"):
        deform_conv2d.measure(SMALL, 2, torch.float32, False, repeats=2)


def test_the_floor_is_the_longer_of_product_and_sampling():
    """512 positions of 9 taps, 4 corners; forward and backward have three products and four passes."""
    shape = shapes.Shape(16, (8, 16), stride=1, groups=2)
    rates = floors_cpu.Rates(flops=1e9, bytes=1e9)
    forward = floors_cpu.floor(shape, 4, torch.float32, False, rates)
    assert forward["product_ms"] == pytest.approx(2 * 512 * 9 * 16 * 8 / 1e6)
    assert forward["sampling_ms"] == pytest.approx(512 * 36 * 16 * 4 / 1e6)
    assert forward["floor_ms"] == max(forward["product_ms"], forward["sampling_ms"])
    both = floors_cpu.floor(shape, 4, torch.float32, True, rates)
    assert both["product_ms"] == pytest.approx(3 * forward["product_ms"])
    assert both["sampling_ms"] == pytest.approx(4 * forward["sampling_ms"])


@needs_own
def test_the_report_names_the_machine(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(shapes, "RESNET", [SMALL])
    output = tmp_path / "figures.json"
    arguments = ["deform_conv2d", "--shapes", "resnet", "--repeats", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    deform_conv2d.main()
    report = json.loads(output.read_text())
    assert report["machine"]["torch"] == torch.__version__
    assert report["machine"]["processor"] and report["settings"]["repeats"] == 2
    assert report["rows"][0]["shape"] == SMALL.name
    assert "geometric mean" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.tmp"))
