"""The runtimes are timed on the same logits or not at all, and the documentation shows what was measured."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import export

for package in ("onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason="needs the extra `export`")

ROOT = Path(__file__).parents[2]
SMALL = export.Setting("dcnv1_resnet18", 40, 1)


@pytest.fixture(scope="module")
def small_runtimes():
    torch.manual_seed(0)
    model = export.network(SMALL.model)
    exact, half = export.runtimes(model, torch.randn(1, 3, 40, 40), 1)
    exact["ours compiled"] = exact["ours"]  # compiling takes too long for a test
    return model, exact, half


@pytest.fixture
def prepared(small_runtimes, monkeypatch):
    """The network and its runtimes, made once: what a test replaces is put back."""
    model, exact, half = small_runtimes
    exact, half = dict(exact), dict(half)
    monkeypatch.setattr(export, "runtimes", lambda *_: (exact, half))
    return model, exact, half


def rows_of(path: Path) -> list[dict]:
    """The rows that a report holds."""
    return json.loads(path.read_text())["rows"]


def test_every_runtime_is_timed(prepared, monkeypatch, tmp_path, capsys):
    output = tmp_path / "export.json"
    monkeypatch.setattr(export, "SETTINGS", [SMALL])
    monkeypatch.setattr(sys, "argv", ["export", "--threads", "1", "--repeats", "2", "--output", str(output)])
    export.main()
    report = json.loads(output.read_text())
    (row,) = report["rows"]
    assert set(row["milliseconds"]) == set(export.COLUMNS) and report["versions"]["openvino"]
    assert all(times["median"] > 0 for times in row["milliseconds"].values())
    assert capsys.readouterr().out == export.table(rows_of(output)) + "\n"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "openvino bfloat16"])
@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_a_wrong_result_is_not_reported(name, factor, prepared):
    functions = prepared[2] if "bfloat16" in name else prepared[1]
    run, images = functions[name]
    functions[name] = (lambda input: factor * run(input), images)
    with pytest.raises(
        SystemExit, match=f"No figures: on {SMALL.name} the results of {name} and ours differ"
    ):
        export.measure(SMALL, 1, repeats=1)


def test_offsets_that_are_left_out_are_seen(prepared):
    """What would compute a plain convolution is refused: the network depends on its offsets."""
    model, exact, _ = prepared
    with torch.no_grad():
        plain = export.network(SMALL.model)
        plain.load_state_dict({k: 0 * v if "conv_offset" in k else v for k, v in model.state_dict().items()})
        exact["onnxruntime"] = (plain, exact["ours"][1])
        with pytest.raises(SystemExit, match="No figures"):
            export.measure(SMALL, 1, repeats=1)


def test_the_documentation_shows_the_committed_figures():
    results = ROOT / "benchmarks/results/export_cpu.json"
    documentation = (ROOT / "docs/export.md").read_text()
    assert export.table(rows_of(results)) in documentation
    machine = json.loads(results.read_text())["machine"]
    assert re.search(re.escape(machine["processor"]), documentation)
