"""The GPU's benchmark, run on the CPU with tiny shapes: its figures are ratios of what it timed."""

from pathlib import Path

import pytest
import torch

from benchmarks import floors, gpu_roi_rows, gpu_rows, gpu_targets, roi_floors, roi_peers, shapes
from dcn_backbones.ops import available_backends, dispatch
from dcn_backbones.ops.backends.reference import ReferenceBackend
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


MAP = roi_peers.Map("small", 64, (100.0, 400.0), regions=3, channels=8)


@pytest.mark.parametrize("backward", [False, True])
def test_pooling_is_held_to_its_worst_row(backward):
    maps = [MAP, roi_peers.Map("few pixels", 128, (100.0, 400.0), regions=20, channels=6)]
    (contiguous, channels_last), rows = gpu_targets.pooling_targets(maps, backward, 2, "cpu")
    assert len(rows) == 2 * len(gpu_roi_rows.TYPES)
    for row in rows:
        medians = {name: times["median"] for name, times in row["milliseconds"].items()}
        best = min(medians["torchvision contiguous"], medians["torchvision channels-last"])
        assert row["over_torchvision"] == medians["ours contiguous"] / best
        assert row["faster_in_channels_last"] == best / medians["ours channels-last"]
    assert contiguous.figure == max(row["over_torchvision"] for row in rows) and not contiguous.at_least
    assert channels_last.figure == min(row["faster_in_channels_last"] for row in rows)
    assert channels_last.at_least


@pytest.mark.parametrize("what", ["the output", "the gradient of input", "the gradient of mask"])
def test_wrong_pooling_is_not_reported(monkeypatch, what):
    """The reference with an error: it is what modulated pooling is compared with."""

    class Wrong(ReferenceBackend):
        name = "wrong"

        def deform_roi_pool_forward(self, *arguments):
            return super().deform_roi_pool_forward(*arguments) * (1.1 if what == "the output" else 1)

        def deform_roi_pool_backward(self, *arguments):
            gradients = super().deform_roi_pool_backward(*arguments)
            factors = [1.2 if what.endswith(leaf) else 1 for leaf in gpu_roi_rows.MODULATED]
            return tuple(None if g is None else f * g for f, g in zip(factors, gradients, strict=True))

    wrong = Wrong()
    monkeypatch.setitem(BACKENDS, wrong.name, wrong)
    monkeypatch.setattr(gpu_roi_rows, "select", lambda *_: wrong)
    dispatch._select.cache_clear()
    with pytest.raises(SystemExit, match=f"No figures: on {MAP.name} {what}"):
        gpu_roi_rows.measure(MAP, torch.float32, True, 2, "cpu")
    dispatch._select.cache_clear()


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
    assert f"\n\n{roi_floors.table()}\n\n" in text


@pytest.mark.parametrize("dtype", gpu_roi_rows.TYPES, ids=str)
def test_pooling_is_not_predicted_to_be_faster_than_its_floor(dtype):
    for map_ in gpu_roi_rows.MAPS:
        for times in (roi_floors.forward(map_, dtype), roi_floors.backward(map_, dtype)):
            assert 0 < times.floor < times.predicted


def test_pixels_of_bins_are_those_that_their_points_look_at():
    """Counted one by one, from the positions of two points along an axis."""
    map_ = roi_peers.Map("50x84", 16, (24.0, 640.0), regions=400, batch=2)
    boxes = roi_peers.make_tensors(map_, channels_last=False)["boxes"]
    counts = []
    for axis in (1, 2):
        start, bin_size = boxes[:, axis] / 16 - 0.5, (boxes[:, axis + 2] - boxes[:, axis]) / 16 / 7
        points = start[:, None, None] + bin_size[:, None, None] * (
            torch.arange(7)[:, None] + torch.tensor([0.25, 0.75])
        )
        below = points.floor().diff(dim=2).squeeze(2)
        counts.append((2 + below.clamp(max=2)).mean(1))
    assert gpu_roi_rows.pixels_of_bins(map_) == pytest.approx((counts[0] * counts[1]).mean().item(), rel=0.02)
