"""Forks runs of the command line, so that what they import is imported once. It has begun nothing of JAX itself.

    python -m faults.server

A line of JSON on stdin is a run: {"argv", "out", "err", "environ", "before"}; "before" is the name of a function in
before.py with its arguments, or []. Answers are its process, and its exit code (-n: ended by signal n). One run at a
time.
"""

import json
import os
import select
import signal
import sys

from faults import before

from jtrain.main import run


def load():
    """Imports what a training run imports."""
    import matplotlib.figure  # noqa: F401
    import orbax.checkpoint  # noqa: F401

    import jtrain.assembly
    import jtrain.commands
    import jtrain.config
    import jtrain.config_files
    import jtrain.io.cache
    import jtrain.io.plots
    import jtrain.loop
    import jtrain.verbs.summary  # noqa: F401


def become(request):
    """Turns a fork of this process into the run."""
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.update(request["environ"])
    if request["before"]:
        name, *arguments = request["before"]
        getattr(before, name)(*arguments)
    sys.argv = ["jtrain", *request["argv"]]


def main():
    load()
    answers = os.dup(1)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    while line := requests.readline():
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            requests.close()
            os.close(answers)
            become(request)
            run()
        os.write(answers, b"%d\n" % process)
        end = os.pidfd_open(process)
        if end not in select.select([end, requests], [], [])[0]:
            os.kill(process, signal.SIGKILL)  # nobody asks any more: the tests have ended
        os.close(end)
        _, status = os.waitpid(process, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
