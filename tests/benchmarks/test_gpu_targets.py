"""The GPU's benchmark, run on the CPU with tiny shapes: its figures are ratios of what it timed."""

from pathlib import Path

import pytest
import torch

from benchmarks import floors, gpu_rows, gpu_targets, shapes
from dcn_backbones.ops import available_backends
from dcn_backbones.ops.dispatch import BACKENDS

SMALL = shapes.Shape(16, (6, 8), stride=2)
SETTINGS = [(2, [SMALL, shapes.Shape(16, (6, 8), groups=4)])]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("backward", [False, True])
def test_targets_are_means_of_the_rows(backward):
    (plain, peer), rows = gpu_targets.operator_targets(SETTINGS, backward, 2, "cpu")
    assert len(rows) == 2
    for row in rows:
        medians = {name: times["median"] for name, times in row["milliseconds"].items()}
        assert row["over_conv2d"] == medians["ours"] / medians["conv2d"]
        assert row["faster_than_torchvision"] == medians["torchvision"] / medians["ours"]
    product = rows[0]["over_conv2d"] * rows[1]["over_conv2d"]
    assert plain.figure == pytest.approx(product**0.5) and not plain.at_least and peer.at_least


@pytest.mark.parametrize("backward", [False, True])
def test_a_wrong_result_is_not_reported(monkeypatch, backward):
    backend = BACKENDS[available_backends()[0]]
    name = "deform_conv2d_backward" if backward else "deform_conv2d_forward"
    original = getattr(backend, name)

    def wrong(*arguments):
        result = original(*arguments)
        return (*result[:3], 1.2 * result[3]) if backward else 1.1 * result

    monkeypatch.setattr(backend, name, wrong)
    what = "gradient of mask" if backward else "the output"
    with pytest.raises(SystemExit, match=f"No figures: on {SMALL.name} .*{what}"):
        gpu_rows.measure(SMALL, 2, backward, 2, "cpu")


def test_numba_is_compared_in_float32():
    row = gpu_rows.measure_numba(SMALL, 2, 2, "cpu", backend="reference")
    assert set(row["milliseconds"]) == {"numba", "torchvision contiguous", "torchvision channels-last"}
    assert row["faster_than_torchvision"] > 0


def test_the_deterministic_flag_is_set_for_one_of_the_two_only():
    row = gpu_rows.measure_deterministic(SMALL, 2, 2, "cpu")
    times = row["milliseconds"]
    assert row["cost"] == times["deterministic"]["median"] / times["usual"]["median"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_models_train_in_half():
    setting = ("dcnv2_resnet18", "resnet18", 32, 2, True)
    (plain, peer), (row,) = gpu_targets.model_targets(setting, 2, "cpu", torch.bfloat16)
    speeds = row["images_per_second"]
    assert plain.figure == pytest.approx(speeds["deformable"] / speeds["plain"])
    assert peer.figure == pytest.approx(speeds["deformable"] / speeds["torchvision"])


@pytest.mark.parametrize("batch_and_shapes", floors.SETTINGS, ids=lambda setting: str(setting[0]))
def test_nothing_is_predicted_to_be_faster_than_its_floor(batch_and_shapes):
    batch, chosen = batch_and_shapes
    for shape in chosen:
        assert floors.forward(shape, batch).floor < floors.predict_forward(shape, batch)
        assert floors.backward(shape, batch).floor < floors.predict_backward(shape, batch)


def test_the_matrix_floor_counts_every_multiply_add_twice():
    times = floors.forward(shapes.Shape(256, (14, 14)), 256)
    assert times.matrix == pytest.approx(2 * 256 * 196 * 9 * 256 * 256 / 790e12)
    assert times.binding == "matrix"


def test_the_committed_predictions_are_the_modules():
    text = (ROOT / "benchmarks/results/gpu_predictions.md").read_text()
    assert text.endswith(floors.table() + "\n")
