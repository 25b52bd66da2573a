"""The benchmark of RoI pooling measures what it says, and refuses to report when results differ."""

import pytest
import torch
import torchvision

from benchmarks import deform_roi_pool, peers, roi_peers, roi_targets
from dcn_backbones.ops.dispatch import BACKENDS

needs_own = pytest.mark.skipif("extension" not in peers.own_backends(), reason="the extension is not built")


@pytest.fixture(autouse=True)
def small_images(monkeypatch):
    monkeypatch.setattr(roi_peers, "IMAGE", (96, 128))


def small(**settings) -> roi_peers.Map:
    return roi_peers.Map("small", regions=20, channels=8, **settings)


@needs_own
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("classes", [0, 2])
def test_everything_is_timed_in_both_formats(classes, backward):
    row = deform_roi_pool.measure(small(classes=classes), backward, repeats=2)
    times = {name: summary["median"] for name, summary in row["milliseconds"].items()}
    kinds = ["plain, extension", "plain, torchvision", "deformed, extension"]
    kinds += [] if classes else ["modulated, extension"]
    formats = ("channels-last", "contiguous")
    assert set(times) == {f"{kind} {layout}" for kind in kinds for layout in formats}
    best = min(times[f"plain, torchvision {layout}"] for layout in formats)
    assert row["regions"] == 20 and all(time > 0 for time in times.values())
    assert row["ratios"]["contiguous"] == pytest.approx(times["plain, extension contiguous"] / best)


@needs_own
@pytest.mark.parametrize("broken", ["torchvision", "extension", "reference"])
def test_a_wrong_result_is_not_reported(monkeypatch, broken):
    """torchvision's function is called by itself there, not as a backend."""
    owner, name = BACKENDS[broken], "deform_roi_pool_forward"
    if broken == "torchvision":
        owner, name = torchvision.ops, "roi_align"
    pool = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a, **k: 1.001 * pool(*a, **k))
    with pytest.raises(SystemExit, match="No figures: on small the results of"):
        deform_roi_pool.measure(small(), False, repeats=2)


def test_levels_of_the_pyramid_share_the_regions(monkeypatch):
    """Each box goes to the level of its area, by the rule of torchvision's pooling."""
    monkeypatch.setattr(roi_peers, "IMAGE", (800, 1344))
    boxes = [roi_peers.make_tensors(map_, False)["boxes"] for map_ in deform_roi_pool.PYRAMID]
    assert sum(map(len, boxes)) == roi_peers.Map.regions and all(map(len, boxes))
    for level, found in enumerate(boxes, start=2):
        sides = ((found[:, 3] - found[:, 1]) * (found[:, 4] - found[:, 2])).sqrt()
        rule = torch.floor(4 + torch.log2(sides / 224) + 1e-6).clamp(2, 5)
        assert torch.equal(rule, torch.full_like(rule, level))


def test_the_lines_are_the_worst_setting_and_the_whole_pyramid():
    def row(name: str, ours: float, theirs: float) -> dict:
        medians = {"extension": ours, "torchvision": theirs}
        times = {
            f"plain, {peer} {layout}": {"median": median}
            for peer, median in medians.items()
            for layout in ("channels-last", "contiguous")
        }
        ratios = dict.fromkeys(("channels-last", "contiguous"), ours / theirs)
        return {"setting": name, "milliseconds": times, "ratios": ratios}

    rows = [row("50x84", 2, 1), row("sensitive", 1, 4), row(deform_roi_pool.FEW_REGIONS.name, 3, 1)]
    rows += [row(map_.name, 1 + i, 10) for i, map_ in enumerate(deform_roi_pool.PYRAMID)]
    lines = {target.name: target for target in roi_targets.targets_of(rows, "forward")}
    worst = lines["forward, contiguous: times roi_align's, worst setting"]
    assert worst.figure == 2 and not worst.passes
    few = lines["forward, contiguous: times roi_align's, 4 regions on 200x336"]
    assert few.figure == 3 and not few.passes
    assert lines["forward, channels-last: times ps_roi_align's, worst setting"].figure == 0.25
    pyramid = lines["forward, channels-last: times roi_align's, all of FPN"]
    assert pyramid.figure == pytest.approx(10 / 40) and pyramid.passes
