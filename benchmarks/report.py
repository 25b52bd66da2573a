"""Figures as JSON, with the machine and the date in them."""

import json
from datetime import UTC, datetime
from pathlib import Path

from dcn_backbones.files import written_whole

from . import machine


def write(path: Path, settings: dict, figures: dict) -> None:
    """Write through a temporary file; paths among the settings become text."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    date = datetime.now(UTC).isoformat(timespec="seconds")
    contents = {"date": date, "machine": machine.facts(), "settings": settings, **figures}
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(contents, indent=1) + "\n")
