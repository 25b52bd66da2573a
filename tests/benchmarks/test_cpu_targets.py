"""The table of targets says pass where a figure is within its limit, and miss elsewhere."""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from benchmarks import memory, models, peers, settings, shapes
from benchmarks.cpu_targets import Target

needs_own = pytest.mark.skipif("extension" not in peers.own_backends(), reason="the extension is not built")


@pytest.mark.parametrize(
    ("figure", "at_least", "word"), [(1.5, False, "pass"), (1.6, False, "MISS"), (1.4, True, "MISS")]
)
def test_a_line_says_pass_or_miss(figure, at_least, word):
    target = Target("forward", figure, 1.5, at_least)
    assert target.line().startswith(word) and target.passes == (word == "pass")


@needs_own
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("backward", [False, True])
def test_the_workspace_does_not_grow_with_the_batch(backward):
    """Columns of the whole batch would be 9 times the input: 28 MiB here, 113 MiB for the larger batch."""
    shape = shapes.Shape(64, (56, 56))
    small, large = (memory.workspace_mib(shape, batch, backward) for batch in (4, 16))
    assert large < small + 2 and large * torch.get_num_threads() < 28


def _peaks() -> list[float]:
    """Of a call that returns 4 MiB and takes 8 more, after one that loads code."""

    def call() -> list[torch.Tensor]:
        temporary = torch.ones(2**21)
        return [temporary[: 2**20] + 1]

    call()
    return [memory.peak_mib(call) for _ in range(3)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_temporary_is_counted_every_time():
    assert memory.in_own_process(_peaks) == pytest.approx([8, 8, 8], abs=1)


@needs_own
@pytest.mark.parametrize("backward", [False, True])
def test_every_setting_is_measured(backward):
    # A process of its own: after a backward pass in this one, torch refuses any in forked children.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        ratios = pool.submit(small_ratios, backward).result()
    assert len(ratios) == 5 and all(ratio > 0 for ratio in ratios.values())


def small_ratios(backward):
    settings.SHAPE = shapes.Shape(16, (6, 8))
    return settings.ratios(backward, repeats=2)


@needs_own
def test_a_slow_operator_is_seen_in_the_settings_of_this_process(monkeypatch):
    monkeypatch.setattr(settings, "SHAPE", shapes.Shape(16, (6, 8)))
    monkeypatch.setattr(settings.peers, "deformable", lambda *_: lambda tensors: time.sleep(0.2))
    ratios = settings.ratios(False, repeats=2)
    del ratios["after spawn"]  # a new interpreter, where nothing is replaced
    assert all(ratio > 5 for ratio in ratios.values()), ratios


def test_models_are_compared_on_the_same_images():
    row = models.measure("dcnv2_resnet18", "resnet18", 32, 2, True, repeats=2)
    assert row["name"] == "dcnv2_resnet18, 32 px, training"
    speeds = row["images_per_second"]
    assert row["plain"] == pytest.approx(speeds["deformable"] / speeds["plain"])
    assert row["torchvision"] == pytest.approx(speeds["deformable"] / speeds["torchvision"])
