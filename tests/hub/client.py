"""A process that has imported everything once and then forks for every command.

Each command is the real script, in a process of its own with its own arguments and exit status, without the
seconds that imports take. One JSON object a line: `argv` or `code`, `environment`, `log` (file for stdout and
stderr).
"""

import json
import os
import runpy
import signal
import sys
import traceback

TIME_LIMIT = 300  # seconds


def main() -> None:
    import matplotlib.figure  # noqa: F401
    import skimage  # noqa: F401
    import torch

    import hub.publish
    import hub.verify  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(job: dict) -> None:
    """Become one command; does not return."""
    signal.alarm(TIME_LIMIT)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(job["environment"])
    status = 0
    try:
        if "code" in job:
            exec(job["code"], {"__name__": "__main__"})
        else:
            sys.argv = job["argv"]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
