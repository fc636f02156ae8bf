"""benchmarks/: what the harness does with contenders that agree, differ, fail and hang; fake ones, of known speed."""

import json
import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import findings
import harness
from contenders import common
from findings import Claim, Comparison, Contender, Entry, Ratio

# A contender that does what its case says, and counts its turns.
FAKE = """
import sys, time

class Fake:
    versions = {"fake": "1.0"}

    def __init__(self, case):
        self.case, self.turns = case, 0

    def check(self):
        print("noise on standard output, as libraries make")
        return self.case.get("numbers", [2.0, 1.0])

    def block(self):
        if self.turns == self.case.get("breaks"):
            raise RuntimeError("out of coffee")
        if self.turns == self.case.get("dies"):
            print("Killed by nobody", file=sys.stderr)
            sys.stderr.flush()
            import os
            os._exit(9)
        if self.turns == self.case.get("hangs"):
            time.sleep(60)
        seconds = self.case["seconds"][self.turns % len(self.case["seconds"])]
        self.turns += 1
        if "log" in self.case:
            with open(self.case["log"], "a") as file:
                print(self.case["name"], file=file)
        return seconds, 10

def prepare(case):
    return Fake(case)
"""


@pytest.fixture
def fake(tmp_path):
    folder = tmp_path / "more" / "contenders"
    folder.mkdir(parents=True)
    (folder / "fake.py").write_text(textwrap.dedent(FAKE))
    environment = {"PYTHONPATH": str(folder.parent)}

    def make(name, seconds=(1.0,), *, family="", peer=False, **case):
        case |= {"name": name, "seconds": list(seconds)}
        return Contender(name, "fake", case, peer=peer, family=family, environment=environment)

    return make


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ratios_are_of_pairs_and_the_table_names_both(fake, capsys):
    ours = fake("ours", [9.0, 1.0, 3.0, 8.0])  # the first turn of each warms up
    theirs = fake("theirs", [9.0, 2.0, 12.0, 8.0])
    found = harness.compare("pairs", [ours, theirs], reference="theirs", rounds=3)
    assert found.entries["ours"].seconds == [0.1, 0.3, 0.8]
    # Not 3 / 8, as the ratio of the medians is.
    assert found.claim("", "ours", "theirs", better="lower", passes=1.0, great=0.6).ratio == Ratio(0.5, 0.25, 1.0)
    assert found.claim("", "ours", "theirs", better="higher", passes=1.0, great=3.0).ratio == Ratio(2.0, 1.0, 4.0)
    assert found.entries["ours"].peak_bytes > 2**20
    text = capsys.readouterr().out
    assert "ours" in text
    assert "theirs" in text
    assert "fake 1.0" in text


def test_every_round_begins_with_another(fake, tmp_path):
    names = ["a", "b", "c"]
    log = tmp_path / "turns"
    contenders = [fake(name, log=str(log)) for name in names]
    harness.compare("turns", contenders, reference="a", rounds=3, warmup=0)
    assert log.read_text().split() == [*"abc", *"bca", *"cab"]


@pytest.mark.parametrize(
    ("case", "why"), [({"breaks": 2}, "RuntimeError: out of coffee"), ({"dies": 1}, "Killed by nobody")]
)
def test_what_fails_stays_in_the_table_and_the_others_go_on(fake, capsys, case, why):
    found = harness.compare("failing", [fake("good"), fake("bad", **case)], reference="good", rounds=3)
    assert (found.entries["bad"].status, found.entries["bad"].why) == ("FAIL", why)
    assert len(found.entries["good"].seconds) == 3
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["bad"])
    assert line.split()[1] == "FAIL"
    assert why in line
    claim = found.claim("", "good", "bad", better="lower", passes=2.0, great=1.5)
    assert claim.verdict == "not measured"
    assert why in claim.why


def test_what_hangs_fails(fake, monkeypatch):
    monkeypatch.setitem(harness.SECONDS, "block", 0.5)
    found = harness.compare("hanging", [fake("good"), fake("bad", hangs=0)], reference="good", rounds=1, warmup=0)
    assert found.entries["bad"].why == "block: no answer in 0.5 s"


def test_no_environment_for_peers_is_a_failure_that_says_what_to_do(fake, monkeypatch):
    monkeypatch.setenv("JTRAIN_BENCH_PYTHON", "/no/such/python")
    found = harness.compare("no peers", [fake("good"), fake("peer", peer=True)], reference="good", rounds=1, warmup=0)
    assert found.entries["peer"].status == "FAIL"
    assert "make bench" in found.entries["peer"].why


@pytest.mark.parametrize("numbers", [[2.0, 1.01], [2.0, float("nan")], [2.0], [2.0, 1.0, 1.0]])
def test_other_arithmetic_differs_and_nothing_is_claimed_of_it(fake, capsys, numbers):
    contenders = [fake("reference"), fake("other", numbers=numbers), fake("near", numbers=[2.0, 1.0004])]
    found = harness.compare("differing", contenders, reference="reference", rounds=1, warmup=0)
    assert found.entries["other"].status == "DIFFERS"
    assert found.entries["near"].status == "ok"
    assert found.entries["near"].difference == pytest.approx(4e-4)
    assert "DIFFERS" in capsys.readouterr().out
    assert found.claim("", "reference", "other", better="lower", passes=2.0, great=1.0).ratio is None


def test_nothing_is_claimed_without_the_reference_that_shows_equal_arithmetic(fake):
    contenders = [fake("reference", dies=0), fake("a"), fake("b")]
    found = harness.compare("alone", contenders, reference="reference", rounds=1, warmup=0)
    assert found.claim("", "a", "b", better="lower", passes=2.0, great=1.0).ratio == Ratio(1.0, 1.0, 1.0)
    contenders = [fake("reference", numbers=None), fake("a"), fake("b")]  # fails already in its check
    found = harness.compare("alone", contenders, reference="reference", rounds=1, warmup=0)
    assert found.claim("", "a", "b", better="lower", passes=2.0, great=1.0).ratio is None


def test_a_claim_against_a_family_is_against_its_fastest(fake):
    contenders = [
        fake("ours"),
        fake("one thread", [4.0], family="torch"),
        fake("two threads", [2.0], family="torch"),
        fake("compiled", [1.0], family="torch", breaks=0),
        fake("wrong", [1.0], family="torch", numbers=[0.0, 0.0]),
    ]
    found = harness.compare("families", contenders, reference="ours", rounds=1, warmup=0)
    claim = found.claim("", "ours", "torch", better="higher", passes=1.0, great=2.0)
    assert (claim.against, claim.ratio, claim.verdict) == ("two threads", Ratio(2.0, 2.0, 2.0), "great")


def test_all_processes_are_ended_when_the_user_stops_it(fake, monkeypatch):
    started = []
    start = harness.Worker.__init__

    def noted(self, contender):
        start(self, contender)
        started.append(self._process)

    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness.Worker, "__init__", noted)
    monkeypatch.setattr(harness, "_turn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        harness.compare("stopped", [fake("a"), fake("b")], reference="a")
    assert len(started) == 2
    assert not any(is_running(process.pid) for process in started)


@pytest.mark.parametrize(
    ("better", "median", "verdict"),
    [
        *[("lower", 1.1, "great"), ("lower", 1.2, "pass"), ("lower", 1.26, "below")],
        *[("higher", 1.25, "great"), ("higher", 1.2, "pass"), ("higher", 1.0, "below")],
    ],
)
def test_verdicts_are_of_the_median(better, median, verdict):
    passes, great = (1.25, 1.1) if better == "lower" else (1.1, 1.25)
    assert Claim("", "a", "b", better, Ratio(median, 0.1, 9.0), passes, great).verdict == verdict


def test_the_file_of_a_row_holds_its_claims_and_its_verdict_is_the_worst(tmp_path, capsys):
    entries = {
        name: Entry(Contender(name, "fake"), versions={"fake": "1.0"}, seconds=[seconds])
        for name, seconds in (("ours", 1.0), ("theirs", 2.0))
    }
    entries["broken"] = Entry(Contender("broken", "fake"), status="FAIL", why="out of coffee")
    found = Comparison("title", "step", "theirs", 1, entries, (0.5, 0.6))
    claims = [
        found.claim("fast", "ours", "theirs", better="higher", passes=1.0, great=2.0),
        found.claim("small", "ours", "theirs", better="lower", passes=0.4, great=0.1),
    ]
    findings.report("P0", "what it is", [found], claims, tmp_path / "results" / "P0.json")
    row = json.loads((tmp_path / "results" / "P0.json").read_text())
    assert (row["id"], row["what"], row["verdict"]) == ("P0", "what it is", "below")
    assert [(c["verdict"], c["better"], c["pass"], c["great"]) for c in row["claims"]] == [
        ("great", "higher", 1.0, 2.0),
        ("below", "lower", 0.4, 0.1),
    ]
    assert row["claims"][0]["ratio"] == {"median": 2.0, "least": 2.0, "greatest": 2.0}
    contenders = {c["name"]: c for c in row["comparisons"][0]["contenders"]}
    assert contenders["theirs"]["seconds_per_unit"] == 2.0
    assert contenders["broken"] | {"versions": {}} == contenders["broken"]
    assert (contenders["broken"]["status"], contenders["broken"]["why"]) == ("FAIL", "out of coffee")
    assert row["comparisons"][0]["load"] == [0.5, 0.6]
    assert row["machine"]["cores"] >= 1
    assert "great" in capsys.readouterr().out


def test_a_training_that_takes_turns_does_a_block_and_no_more():
    done, settled = [], []

    def train(turns):
        while True:
            done.append(len(done))
            if len(done) % 2 == 0:
                turns.point(float(len(done)))

    turns = common.Turns(train, settle=lambda: settled.append(len(done)))
    assert done == []
    turns.go(3)
    assert (len(done), turns.losses, settled) == (6, [2.0, 4.0, 6.0], [6])
    assert turns.go(1) >= 0.0
    assert (len(done), turns.losses, settled) == (8, [8.0], [6, 8])


def test_a_training_that_fails_or_ends_tells_whoever_waits_for_it():
    def failing(turns):
        turns.point(1.0)
        raise ValueError("out of coffee")

    turns = common.Turns(failing)
    turns.go(1)
    with pytest.raises(ValueError, match="out of coffee"):
        turns.go(1)
    with pytest.raises(RuntimeError, match="came to its end"):
        common.Turns(lambda turns: None).go(1)


def test_a_block_and_a_check_of_a_loop_are_the_updates_that_the_case_says():
    case = {"rows": [[0, 1]] * 4, "batch": 2, "log_every": 2, "points": 3, "per": "image"}
    done = []
    looped = common.Looped(case, {}, lambda: done.append(0) or float(len(done)))
    assert looped.check() == [1.5, 3.5]
    seconds, images = looped.block()
    assert (len(done), images) == (4 + 6, 12)
    assert seconds > 0


def test_first_weights_are_drawn_by_path_alone_with_the_variance_of_their_fan_in():
    shapes = {"conv0/kernel": (3, 3, 16, 64), "conv0/bias": (64,), "norm0/scale": (64,)}
    drawn = common.weights(shapes)
    alone = common.weights({"conv0/kernel": (3, 3, 16, 64)})
    np.testing.assert_array_equal(drawn["conv0/kernel"], alone["conv0/kernel"])
    assert drawn["conv0/kernel"].var() == pytest.approx(2 / (3 * 3 * 16), rel=0.05)
    assert not drawn["conv0/bias"].any()
    assert (drawn["norm0/scale"] == 1).all()
    assert not (common.weights({"conv1/kernel": (3, 3, 16, 64)})["conv1/kernel"] == drawn["conv0/kernel"]).any()
    tree = common.nested(drawn)
    assert tree["conv0"]["kernel"] is drawn["conv0/kernel"]
    assert set(tree) == {"conv0", "norm0"}
