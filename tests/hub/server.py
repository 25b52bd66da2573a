"""A Hugging Face Hub for the tests: as much of its protocol as the real client speaks, on this machine.

python -m tests.hub.server --root DIR --port N

Then, for the client: HF_ENDPOINT=http://127.0.0.1:N HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_test

Models only: create, validate-yaml, preupload, LFS (basic and multipart), commit, resolve with ranges, tree,
revisions, lists. What it does not know is answered 404 and noted. Below `/-/` it is controlled: POST
`/-/faults` (see `faults.py`), POST `/-/reset`, GET `/-/requests`, a list of what was asked for.
"""

import argparse
from pathlib import Path

from tests.hub.protocol import Hub
from tests.hub.routes import ROUTES

TOKEN = "hf_test"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="where repositories are kept")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--token", action="append", help=f"one that may write (default: {TOKEN})")
    parser.add_argument(
        "--part-size", type=int, default=0, help="least bytes of a part of an upload, 0 for one"
    )
    arguments = parser.parse_args()
    tokens = set(arguments.token or [TOKEN])
    hub = Hub(arguments.root, arguments.port, ROUTES, tokens, arguments.part_size)
    print(hub.address, flush=True)
    try:
        hub.serve_forever()
    except KeyboardInterrupt:
        hub.server_close()


if __name__ == "__main__":
    main()
