"""One contender of a benchmark, in a process of its own: requests and replies as lines of JSON, see harness.py.

    {"do": "prepare", "module": "mlp_bare", "case": {…}}   →  {"versions": {…}}
    {"do": "check"}                                        →  {"numbers": […]}
    {"do": "block"}                                        →  {"seconds": 0.31, "units": 500}
    {"do": "peak"}                                         →  {"bytes": 312000512}

A request that fails is answered by {"error": …}, and its traceback goes to standard error. The end of standard input
ends the process, so that none outlives the harness.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def peak_bytes() -> int:
    """The most memory that this process has ever held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status tells no VmHWM")


def answer(request: dict[str, Any], contender: Any) -> tuple[dict[str, Any], Any]:
    """(the reply, the contender), which `prepare` makes."""
    match request["do"]:
        case "prepare":
            module = importlib.import_module(f"contenders.{request['module']}")
            contender = module.prepare(request["case"])
            return {"versions": contender.versions}, contender
        case "check":
            return {"numbers": [float(number) for number in contender.check()]}, contender
        case "block":
            seconds, units = contender.block()
            return {"seconds": float(seconds), "units": float(units)}, contender
        case "peak":
            return {"bytes": peak_bytes()}, contender
    raise ValueError(f"no such request: {request}")


def main() -> None:
    """Answers requests until there are no more."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints, it cannot break the replies
    contender = None
    for line in sys.stdin:
        try:
            reply, contender = answer(json.loads(line), contender)
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
    os._exit(0)  # at once: a contender may have threads that wait for their next turn


if __name__ == "__main__":
    main()
