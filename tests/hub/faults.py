"""What can go wrong between a client and the test Hub, on request.

A fault is a JSON object: `kind`, `method` and `path` (regular expressions of the whole method and path),
`times` (how many requests it meets, 1; -1 for all), and what the kind needs:

| kind | what happens |
|---|---|
| `error` | the answer is `status` (500) |
| `lost` | the request is worked on, its answer is `status` (500) |
| `drop` | the connection is closed after `bytes` of the request's body, where it has none of the answer's |
| `reset` | the same, as a reset of the connection |
| `slow` | the answer comes after `seconds` |
| `etag` | the answer's ETag is `etag` |
| `truncate` | the file ends after `bytes`, and every header agrees with that |
| `tamper` | the byte at `bytes` is another one |
"""

import re
import threading
from dataclasses import dataclass


@dataclass
class Fault:
    """One fault, as the module describes."""

    kind: str
    method: str = ".*"
    path: str = ".*"
    times: int = 1
    status: int = 500
    bytes: int = 0
    seconds: float = 0.0
    etag: str = ""

    def meets(self, method: str, path: str) -> bool:
        return bool(self.times and re.fullmatch(self.method, method) and re.fullmatch(self.path, path))


class Faults:
    """The faults that are due; a request takes at most one."""

    def __init__(self) -> None:
        self.due: list[Fault] = []
        self.lock = threading.Lock()

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that meets a request, used up by one."""
        with self.lock:
            for fault in self.due:
                if fault.meets(method, path):
                    fault.times -= fault.times > 0
                    return fault
        return None
