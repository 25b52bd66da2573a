"""RoI pooling's targets on the CPU, with figures and pass or miss: `python -m benchmarks.roi_targets`.

Every figure is a ratio within this run, of medians; torchvision has the better of its two memory formats. The
exit status is 1 while any line misses.
"""

import argparse
import sys
from pathlib import Path

from . import deform_roi_pool, report
from .cpu_targets import Target

LIMITS = {"contiguous": 1.5, "channels-last": 1.0}


def targets_of(rows: list[dict], direction: str) -> list[Target]:
    """A line for each format and kind: the worst setting, and all levels of the pyramid together.

    With a few regions on a large map, to clear the gradient of the input takes both most of the time; there
    the limit is the same in both formats.
    """
    pyramid = {map_.name for map_ in deform_roi_pool.PYRAMID}
    (few,) = (row for row in rows if row["setting"] == deform_roi_pool.FEW_REGIONS.name)
    rows = [row for row in rows if row is not few]
    targets = []
    for layout, limit in LIMITS.items():
        for peer, sensitive in (("roi_align", False), ("ps_roi_align", True)):
            chosen = [row for row in rows if row["setting"].startswith("sensitive") == sensitive]
            worst = max(row["ratios"][layout] for row in chosen)
            targets.append(Target(f"{direction}, {layout}: times {peer}'s, worst setting", worst, limit))
        times = [row["milliseconds"] for row in rows if row["setting"] in pyramid]
        ratio = _total(times, f"extension {layout}") / min(
            _total(times, f"torchvision {name}") for name in LIMITS
        )
        targets.append(Target(f"{direction}, {layout}: times roi_align's, all of FPN", ratio, limit))
        name = f"{direction}, {layout}: times roi_align's, {few['setting']}"
        targets.append(Target(name, few["ratios"][layout], LIMITS["contiguous"]))
    return targets


def _total(times: list[dict], name: str) -> float:
    return sum(each[f"plain, {name}"]["median"] for each in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    targets, rows = [], {}
    for direction, backward in (("forward", False), ("forward + backward", True)):
        repeats = max(3, arguments.repeats // 2) if backward else arguments.repeats
        rows[direction] = [deform_roi_pool.measure(map_, backward, repeats) for map_ in deform_roi_pool.MAPS]
        print(*map(deform_roi_pool.line, rows[direction]), sep="\n", flush=True)
        targets += targets_of(rows[direction], direction)
    print("\n".join(target.line() for target in targets))
    if arguments.output:
        lines = [target._asdict() | {"passes": target.passes} for target in targets]
        report.write(arguments.output, {"repeats": arguments.repeats}, {"targets": lines, **rows})
    sys.exit(0 if all(target.passes for target in targets) else 1)


if __name__ == "__main__":
    main()
