import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types

import numpy as np
import pytest
from loader_examples import Deadly, Made, Raising, Telling

from jtrain.data import workers as module
from jtrain.data.broken import Tolerant
from jtrain.data.examples import ArrayExamples, BrokenRecord, Subset
from jtrain.data.worker import receive, send
from jtrain.data.workers import Unsendable, Workers, decodes, worker_count
from jtrain.errors import DataError

ROWS = np.array([4, 0, 39, 4], np.int32)


@pytest.fixture
def workers():
    made = Workers(2)
    yield made
    made.close()


def fact(workers, examples, which=0):
    return int(workers.fetch(examples, ROWS)[1][0, which])


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"  # nobody may be there to reap it
    except FileNotFoundError:
        return True


def wait_for(what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_workers_give_what_this_process_gives(workers):
    examples = Subset(Made(), np.arange(39, -1, -1))
    batches = [np.random.default_rng(i).integers(0, 40, 16) for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # more callers than children
        found = list(pool.map(lambda rows: workers.fetch(examples, rows), batches))
    for rows, (inputs, targets) in zip(batches, found, strict=True):
        for mine, theirs in zip(examples.fetch(rows), (inputs, targets), strict=True):
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs)
    assert workers.news() == []


def test_what_is_sent_arrives_whatever_its_layout():
    cube = np.arange(24.0).reshape(2, 3, 4)
    values = [cube, cube.T, cube[:, ::2], cube[:0], np.array(3, np.int8), np.array([True, False]), "words", (1, None)]
    here, there = socket.socketpair()
    with here, there:
        send(here, values)
        send(here, "next")
        found = receive(there)
        assert receive(there) == "next"
        here.close()
        with pytest.raises(EOFError):
            receive(there)
    for mine, theirs in zip(values[:6], found[:6], strict=True):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)
        assert theirs.flags.writeable
    assert found[6:] == values[6:]


def test_one_set_of_children_serves_several_splits(workers):
    first, second = Telling(40), Telling(50)
    pids = {fact(workers, examples) for examples in (first, second, first, second)}
    assert len(pids) == 1  # one after another needs no more than one


def test_children_work_beside_each_other_and_are_no_more_than_asked_for(workers):
    examples = Telling(seconds=0.3)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pids = set(pool.map(lambda _: fact(workers, examples), range(6)))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_children_never_import_jax_and_use_one_thread(workers):
    assert "jax" in sys.modules  # it would be seen
    assert fact(workers, Telling(), 1) == 0
    assert fact(workers, Telling(), 2) == 1


def test_killed_child_is_replaced_and_its_batch_read_again(workers):
    examples = Telling()
    first = fact(workers, examples)
    os.kill(first, signal.SIGKILL)
    assert fact(workers, examples) not in (first, os.getpid())
    (line,) = workers.news()
    assert line == "a loader process died (signal 9: out of memory?); another one reads its batch"
    assert workers.news() == []


def test_child_killed_while_it_reads_is_replaced(workers):
    examples = Telling(seconds=0.5)
    first = fact(workers, examples)
    threading.Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
    inputs, targets = workers.fetch(examples, ROWS)
    assert np.array_equal(inputs, Made().fetch(ROWS)[0])
    assert targets[0, 0] != first
    assert len(workers.news()) == 1


def test_records_that_kill_two_children_are_a_data_error_and_the_rest_goes_on(workers):
    examples = Deadly()
    words = r"died \(signal 9: out of memory\?\) while reading records 1, 2, 3, 4 and 1 more.*data\.workers"
    with pytest.raises(DataError, match=words):
        workers.fetch(examples, np.arange(1, 6))
    assert np.array_equal(workers.fetch(examples, ROWS)[0], Made().fetch(ROWS)[0])


@pytest.mark.parametrize(
    "error",
    [
        BrokenRecord("a.bin: record 3"),
        DataError("no file"),
        KeyError("x"),
        ConnectionResetError("by the server"),
        EOFError("short"),
    ],
)
def test_what_a_child_raises_is_raised_here(workers, error):
    with pytest.raises(type(error)) as caught:
        workers.fetch(Raising(error), ROWS)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert "in fetch\n    raise self.error" in caught.value.__notes__[0]  # where it happened, there
    assert workers.news() == []  # nor is it taken for a death


def test_exception_that_cannot_be_pickled_comes_as_its_words(workers):
    with pytest.raises(RuntimeError) as caught:
        workers.fetch(Raising(), ROWS)
    assert str(caught.value) == "TwoWords: so there"
    assert "in fetch" in caught.value.__notes__[0]


def test_examples_that_cannot_be_pickled_say_so(workers):
    examples = Made()
    examples.function = lambda: None
    with pytest.raises(Unsendable, match="lambda"):
        workers.fetch(examples, ROWS)


def test_examples_of_a_class_that_children_cannot_import_say_so(workers, monkeypatch):
    here = types.ModuleType("only_here")
    exec("from loader_examples import Made\nclass Local(Made): pass", here.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", here)
    with pytest.raises(Unsendable, match="No module named 'only_here'"):
        workers.fetch(here.Local(), ROWS)
    assert np.array_equal(workers.fetch(Made(), ROWS)[0], Made().fetch(ROWS)[0])


def test_close_ends_the_children_and_the_next_fetch_starts_anew(workers):
    examples = Telling()
    first = fact(workers, examples)
    workers.close()
    assert gone(first)
    workers.close()
    assert fact(workers, examples) != first


def test_child_that_does_not_end_is_killed(workers, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    pid = fact(workers, Telling())
    os.kill(pid, signal.SIGSTOP)
    workers.close()
    assert gone(pid)


def test_children_outlive_ctrl_c_and_sigterm_from_their_first_moment_on(workers, monkeypatch):
    started = []

    def start(*args, **given):
        started.append(subprocess.Popen(*args, **given))
        started[0].send_signal(signal.SIGINT)  # long before Python runs there
        started[0].send_signal(signal.SIGTERM)
        return started[0]

    monkeypatch.setattr(module, "subprocess", types.SimpleNamespace(**vars(subprocess) | {"Popen": start}))
    examples = Telling()
    assert fact(workers, examples) == started[0].pid
    started[0].send_signal(signal.SIGINT)
    started[0].send_signal(signal.SIGTERM)
    time.sleep(0.1)
    assert fact(workers, examples) == started[0].pid
    assert workers.news() == []
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())  # here they arrive as before


def test_answer_to_an_interrupted_request_is_never_taken_for_another(workers):
    class Alarm(Exception):
        pass

    def ring(*args):
        raise Alarm

    slow, quick = Made(seconds=0.4), Made()
    workers.fetch(quick, ROWS)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Alarm):
            workers.fetch(slow, ROWS)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(workers.fetch(quick, ROWS)[1], Made().fetch(ROWS)[1])
    assert np.array_equal(workers.fetch(quick, np.arange(3))[1], [0, 1, 2])


def test_interpreter_that_cannot_be_started_is_a_data_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(DataError, match=r"^data\.workers: no loader process can be started .*nowhere"):
        Workers(1).fetch(Made(), ROWS)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_killed_parent_leaves_no_children_and_its_program_is_run_once(tmp_path, seconds):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import concurrent.futures, time
        import numpy as np
        from jtrain.data.workers import Workers, Unsendable
        from loader_examples import Made, Telling
        print("begun", flush=True)   # no guard of __main__
        class Mine(Made): pass
        workers, examples = Workers(2), Telling(seconds={seconds})
        try:
            workers.fetch(Mine(), np.arange(2))
        except Unsendable as error:
            print(error, flush=True)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            while True:
                found = list(pool.map(lambda _: workers.fetch(Telling(seconds=0.2), np.arange(2)), range(2)))
                pids = {{int(targets[0, 0]) for _, targets in found}}
                if len(pids) == 2:
                    break
            for _ in range(2):
                pool.submit(workers.fetch, examples, np.arange(2))
            time.sleep(0.2)
            print(*pids, flush=True)  # they are idle now, or busy
            time.sleep(60)
        """)
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            assert parent.stdout.readline() == "begun\n"
            assert "Can't get attribute 'Mine'" in parent.stdout.readline()
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 2
            assert not any(gone(pid) for pid in pids)
        finally:
            parent.kill()
    wait_for(lambda: all(gone(pid) for pid in pids))


@pytest.mark.parametrize(
    ("setting", "accelerators", "cores", "count"),
    [(-1, 1, 16, 4), (-1, 0, 16, 4), (-1, 8, 16, 16), (-1, 8, 64, 32), (-1, 1, 2, 2), (0, 8, 64, 0), (6, 1, 2, 6)],
)
def test_count_follows_accelerators_and_cores_unless_it_is_set(setting, accelerators, cores, count):
    assert worker_count(setting, accelerators, cores) == count


def test_examples_in_memory_are_not_worth_a_worker():
    arrays = ArrayExamples(np.zeros((4, 2)), np.zeros(4, np.int32))
    light = Made()
    light.decodes = False
    for examples, expected in ((arrays, False), (Made(), True), (light, False)):
        assert decodes(examples) is expected
        assert decodes(Tolerant(Subset(examples, np.arange(2)), 0, "train")) is expected
