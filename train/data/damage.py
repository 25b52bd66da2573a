"""The list of damaged images of a run, and when it is too long."""

import logging

from train.data.sources import DamagedImageError

_logger = logging.getLogger(__name__)


class DamageList:
    """Names each damaged image once and stops the run when there are more than `limit`."""

    def __init__(self, limit: int):
        self.limit = limit
        self.found: dict[str, None] = {}  # an ordered set

    def add(self, damaged: list[str]) -> None:
        """Report new ones; raises DamagedImageError with the whole list when it grows beyond the limit."""
        for message in damaged:
            if message not in self.found:
                self.found[message] = None
                if len(self.found) <= self.limit:
                    _logger.warning("%s (%d of at most %d)", message, len(self.found), self.limit)
        if len(self.found) > self.limit:
            raise DamagedImageError(
                f"{len(self.found)} damaged images, expected at most {self.limit}: {'; '.join(self.found)}"
            )
