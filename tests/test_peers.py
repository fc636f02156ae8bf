"""The control plane: who is absent, dead, silent or stuck is named; all stop at the same piece of work."""

import contextlib
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jtrain.errors import ConfigError, HeldError
from jtrain.hub import Hub
from jtrain.peers import ALONE, Joined

HOST = "127.0.0.1"
TIMES = {"heartbeat": 1.5, "start": 10.0, "step": 20.0}


def free_port():
    with socket.create_server((HOST, 0)) as server:
        return server.getsockname()[1]


def join(n, lost=None, **times):
    """`n` processes as threads of this one; what each learns of a loss goes to the queue `lost`."""
    port, found = free_port(), {}
    lost = queue.Queue() if lost is None else lost

    def start(i):
        try:
            found[i] = Joined(
                HOST, port, i, n, welcome=lambda: {"secret": 7}, on_lost=lambda text, code: lost.put((i, text, code)),
                **(TIMES | times),
            )  # fmt: skip
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=start, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(n)]


def leave(all_of_them):
    for peer in reversed(all_of_them):
        peer.leave("")


def together(all_of_them, work):
    """`work(peer)` on all at once; the results in order."""
    results = {}
    threads = [threading.Thread(target=lambda p=p: results.update({p.process: work(p)})) for p in all_of_them]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[p.process] for p in all_of_them]


def test_a_process_alone_answers_itself():
    assert ALONE.exchange("a", 3) == [3]
    assert ALONE.leads
    assert ALONE.grant(None) is None
    assert ALONE.grant(15) == 15


def test_values_of_all_come_to_all_in_order():
    those = join(3)
    assert [p.welcome["secret"] for p in those] == [7, 7, 7]
    for round_ in range(3):  # the same key again is another exchange
        found = together(those, lambda p, r=round_: p.exchange("key", {"me": p.process, "round": r}))
        assert found == [[{"me": i, "round": round_} for i in range(3)]] * 3
    assert together(those, lambda p: p.exchange("one", p.process, only=0)) == [[0, 1, 2], [], []]
    leave(those)


def test_large_values_pass():
    those = join(2)
    text = "x" * (5 << 20)
    assert together(those, lambda p: p.exchange("large", text)) == [[text, text]] * 2
    leave(those)


def test_the_absent_are_named():
    port = free_port()
    found = []

    def start(i):
        with pytest.raises(HeldError) as caught:
            Joined(HOST, port, i, 4, **(TIMES | {"start": 1.0}))
        found.append(str(caught.value))

    threads = [threading.Thread(target=start, args=(i,)) for i in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    for text in found:
        assert text.startswith("processes 1, 3 of 4 did not come within 1 s")
        assert f"process 2 (pid {os.getpid()}" in text


def test_process_0_absent_is_told():
    began = time.monotonic()
    with pytest.raises(HeldError, match=r"process 0 cannot be reached at 127\.0\.0\.1"):
        Joined(HOST, free_port(), 1, 2, **(TIMES | {"start": 0.5}))
    assert time.monotonic() - began < 5


def test_a_number_twice_and_other_counts_are_refused():
    port = free_port()
    first = threading.Thread(target=_quiet, args=(port, 0, 2))
    first.start()
    time.sleep(0.3)
    with pytest.raises(ConfigError, match=r"process 0 says 2"):
        Joined(HOST, port, 1, 3, **TIMES)
    with pytest.raises(ConfigError, match="the numbers are 0 to 1"):
        Joined(HOST, port, 5, 2, **TIMES)
    second = threading.Thread(target=_quiet, args=(port, 1, 2))
    second.start()
    time.sleep(0.3)
    with pytest.raises(ConfigError, match="is one too many"):
        Joined(HOST, port, 1, 2, **TIMES)
    first.join(20)
    second.join(20)


def _quiet(port, process, processes):
    peer = Joined(HOST, port, process, processes, on_lost=lambda text, code: None, **TIMES)
    time.sleep(1.0)
    peer.leave("")


def test_garbage_and_silence_at_the_port_harm_nobody():
    port = free_port()
    hub = Hub((HOST, port), 2, dict, **TIMES)
    hub.start()
    strangers = []
    for text in (
        b"GET / HTTP/1.0\r\n\r\n",
        b'{"hello": 3}\n',
        b'{"hello":{"process":1e999,"processes":2}}\n',
        b"[[[[" * 5000 + b"\n",
        b"\x00" * 100_000,
        b"",
        b"7\n",
    ):
        stranger = socket.create_connection((HOST, port))
        with contextlib.suppress(OSError):
            stranger.sendall(text)
        strangers.append(stranger)
    # Only process 1 and a second client in the place of process 0: the hub itself is what is tried here.
    member = [socket.create_connection((HOST, port)) for _ in range(2)]
    for i, connection in enumerate(member):
        hello = {"process": i, "processes": 2, "pid": 1, "host": "x", "sees": ""}
        connection.sendall(json.dumps({"hello": hello}).encode() + b"\n")
    for connection in member:
        connection.settimeout(5)
        with connection.makefile() as lines:
            assert any("welcome" in line for line in lines)
        connection.sendall(b'{"bye": 0}\n')
    hub.join(5)
    for connection in (*strangers, *member):
        connection.close()


def test_reason_of_a_process_that_leaves_reaches_the_others():
    lost = queue.Queue()
    those = join(3, lost)
    those[1].leave("data.npz.path: no such file", 3)
    told = sorted(lost.get(timeout=5) for _ in range(2))
    assert [i for i, _, _ in told] == [0, 2]
    assert all("process 1 (pid" in text and text.endswith("left: data.npz.path: no such file") for _, text, _ in told)
    assert all(code == 3 for _, _, code in told)


def test_who_does_not_come_to_an_exchange_is_named():
    lost = queue.Queue()
    those = join(2, lost, step=1.0)
    for p in those:
        p.at("update 5")
    with pytest.raises(HeldError, match=r"process 1 .*it was at \"update 5\".* did not come to 'save/5'"):
        those[0].exchange("save/5", 1)
    assert lost.get(timeout=5)


def test_no_progress_names_the_one_that_is_behind():
    lost = queue.Queue()
    those = join(2, lost, step=2.0)
    those[0].grant(None)
    those[0].at("update 8")
    those[1].at("data of update 8")
    _, text, code = lost.get(timeout=10)
    assert "process 1 (" in text
    assert 'it was at "data of update 8"' in text
    assert "process 0 (" not in text
    assert code == 4


def test_all_stop_before_the_same_piece_of_work():
    for seed in range(5):
        those = join(3)
        rng = random.Random(seed)
        delays = [[rng.random() * 0.004 for _ in range(400)] for _ in those]
        asked = rng.randrange(3)

        def work(p, delays=delays, asked=asked):
            for i in range(400):
                time.sleep(delays[p.process][i])
                number = p.grant(15 if p.process == asked and i >= 50 else None)
                if number is not None:
                    return i, number
            return None

        found = together(those, work)
        assert len(set(found)) == 1, found
        i, number = found[0]
        assert number == 15
        assert 50 <= i < 399
        leave(those)


def test_who_is_refused_always_hears_why():
    port = free_port()
    hub = Hub((HOST, port), 2, dict, **(TIMES | {"start": 30.0}))
    hub.start()
    for _ in range(20):
        with pytest.raises(ConfigError, match="the numbers are 0 to 1"):
            Joined(HOST, port, 5, 2, **TIMES)
    hub._lose("the end of the test")
    hub.join(5)


def test_what_answers_there_may_be_no_process_of_a_run():
    with socket.create_server((HOST, 0)) as server:
        answer = threading.Thread(target=lambda: server.accept()[0].close())
        answer.start()
        with pytest.raises(HeldError, match="is no process of this run"):
            Joined(HOST, server.getsockname()[1], 1, 2, **TIMES)
        answer.join()


def test_an_end_while_the_others_wait_is_a_loss_and_nothing_waits_after_it():
    lost = queue.Queue()
    those = join(2, lost)

    def wait():
        with pytest.raises(HeldError):
            those[0].exchange("later", 1)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)
    those[1].leave()
    _, text, code = lost.get(timeout=5)
    assert "process 1" in text
    assert "ended before it came to 'later'" in text
    assert code == 4
    waiting.join(5)
    assert not waiting.is_alive()
    with pytest.raises(HeldError, match="has left"):
        those[1].exchange("after", 1)


def test_a_stop_ends_with_its_run_and_one_value_can_be_for_all():
    those = join(2)
    assert together(those, lambda p: p.first("a", {"of": p.process})) == [{"of": 0}] * 2
    assert together(those, lambda p: [p.grant(15 if p.process else None) for _ in range(3)][-1] or time.sleep(0.5))
    together(those, lambda p: p.grant(None))
    together(those, lambda p: p.begin())
    assert together(those, lambda p: p.grant(None)) == [None, None]
    leave(those)


def test_idle_processes_are_not_stuck():
    lost = queue.Queue()
    those = join(2, lost, step=0.5)
    time.sleep(5)
    assert lost.empty()
    leave(those)


CHILD = """
import sys, time
from jtrain.peers import Joined
port, i, n = map(int, sys.argv[1:])
p = Joined("127.0.0.1", port, i, n, heartbeat=1.5, start=20.0, step=60.0)
print("there", flush=True)
for step in range(10**6):
    p.at(f"update {step}")
    p.exchange("step", 0)
    time.sleep(0.01)
"""


def children(n):
    port = free_port()
    found = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(port), str(i), str(n)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(n)
    ]  # fmt: skip
    for child in found:
        assert child.stdout.readline() == "there\n"
    return found


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_others_leave_and_name_who_is_dead_or_stopped(victim, number):
    those = children(3)
    time.sleep(0.3)
    those[victim].send_signal(number)
    began = time.monotonic()
    for i, child in enumerate(those):
        if i != victim:
            _, err = child.communicate(timeout=15)
            assert child.returncode == 4
            assert f"process {victim}" in err
            assert ("died" if number == signal.SIGKILL else "has not been heard of") in err
    assert time.monotonic() - began < 8
    those[victim].kill()
    those[victim].communicate()


def test_a_pause_shorter_than_the_heartbeat_is_no_loss():
    those = children(2)
    for victim in (1, 0):
        those[victim].send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        those[victim].send_signal(signal.SIGCONT)
        time.sleep(0.5)
    assert [child.poll() for child in those] == [None, None]
    for child in reversed(those):
        child.kill()
        child.communicate()


def test_nothing_of_jax_is_imported():
    code = "import sys, jtrain.peers; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
