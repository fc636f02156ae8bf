"""Logging services: whatever they do, the run goes on, and what they hold in the end is what metrics.jsonl holds."""

import importlib.util
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest

from jtrain import config as configs
from jtrain.errors import ConfigError
from jtrain.io import hosted as hosting
from jtrain.io import services
from jtrain.io.hosted import Hosted
from jtrain.io.progress import Screen
from jtrain.io.record import Record
from jtrain.io.services import SERVICES, check_services, taken
from jtrain.io.writers import numbers_of

ROWS = [
    {"step": 10, "epoch": 0.5, "split": "train", "loss": 2.5, "lr": 1e-3, "lr/head/.*": 1e-3, "lr/head/.+": 2e-3},
    {"step": 10, "epoch": 0.5, "split": "val", "loss": 1 / 3, "accuracy": math.nan, "ema/accuracy": 0.5},
    {"step": 20, "epoch": 1.0, "split": "train", "loss": 1e-30, "lr": 0.1 + 0.2, "data_wait": None, "confusion": [[1]]},
    {"step": 20, "epoch": 1.0, "split": "test", "loss": 7.0},
]


class Service:
    """Keeps rows; as slow and as broken as it is told to be."""

    def __init__(self):
        self.rows, self.ids, self.closed, self.errors = [], [], [], []
        self.open, self.sent = threading.Event(), threading.Event()
        self.open.set()

    def connect(self, identity, tell):
        self.ids.append(identity)
        return self

    def send(self, rows):
        self.open.wait(30)
        if self.errors:
            raise self.errors.pop(0)
        self.rows += rows
        self.sent.set()

    def close(self, finished):
        self.closed.append(finished)


def begin(service, folder, rows, target="there", **options):
    return Hosted("name", target, service.connect, folder, rows, **options)


def end(hosted, finished=True):
    hosted.end(finished=finished)
    hosted.close()
    return hosted.news()


def test_rows_arrive_in_order_and_the_end_waits_for_them(tmp_path):
    service, rows = Service(), []
    hosted = begin(service, tmp_path, rows)
    for step in range(250):
        rows.append({"step": step})
        hosted.added()
    assert end(hosted) == []
    assert [row["step"] for row in service.rows] == list(range(250))
    assert service.closed == [True]


def test_a_service_that_hangs_holds_up_neither_the_run_nor_for_long_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(hosting, "CLOSE_SECONDS", 0.2)
    service, rows = Service(), [{"step": 0}]
    service.open.clear()
    hosted = begin(service, tmp_path, rows)
    begun = time.monotonic()
    for step in range(1, 1000):
        rows.append({"step": step})
        hosted.added()
    news = end(hosted)
    assert time.monotonic() - begun < 5
    assert news == [
        "does not answer; the run does not wait for it", "1000 of 1000 rows were not sent; the same command sends them",
    ]  # fmt: skip
    service.open.set()


def test_an_outage_is_told_once_and_all_rows_arrive_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(hosting, "RETRY_SECONDS", 0.02)
    service, rows = Service(), [{"step": 0}]
    service.errors = [ConnectionError("no\nroute"), ConnectionError("still none"), ValueError("odd")]
    hosted = begin(service, tmp_path, rows)
    rows.append({"step": 1})
    hosted.added()
    assert service.sent.wait(10)
    news = end(hosted)
    assert news == ["no route; the run goes on, its rows are kept and tried again", "answers again"]
    assert [row["step"] for row in service.rows] == [0, 1]


def test_what_was_not_sent_is_sent_when_the_run_is_resumed_under_the_same_id(tmp_path):
    first, rows = Service(), [{"step": 0}, {"step": 1}]
    end(begin(first, tmp_path, rows), finished=False)
    rows += [{"step": 2}]
    second = Service()
    end(begin(second, tmp_path, rows))
    assert [row["step"] for row in second.rows] == [2]
    assert first.ids == second.ids
    assert (first.closed, second.closed) == ([False], [True])


def test_rows_that_were_cut_are_sent_anew(tmp_path):
    service, rows = Service(), [{"step": step, "first": True} for step in range(4)]
    hosted = begin(service, tmp_path, rows)
    assert service.sent.wait(10)
    rows = rows[:2]
    hosted.cut(rows)
    rows += [{"step": 2, "first": False}]
    hosted.added()
    assert end(hosted) == []
    last = {row["step"]: row["first"] for row in service.rows}
    assert last == {0: True, 1: True, 2: False, 3: True}
    again = Service()
    end(begin(again, tmp_path, rows[:1]))  # cut back by a resume
    assert again.rows == []


def test_another_target_or_a_killed_run_of_a_service_that_forgets_gets_all_rows(tmp_path):
    rows = [{"step": 0}, {"step": 1}]
    end(begin(Service(), tmp_path, rows))
    for options in ({"target": "elsewhere"}, {"keeps": False}):
        service = Service()
        if "keeps" in options:
            mark = json.loads((tmp_path / "name.json").read_text())
            (tmp_path / "name.json").write_text(json.dumps(mark | {"target": "there", "closed": False}))
        end(begin(service, tmp_path, rows, **options))
        assert service.rows == rows
    (tmp_path / "name.json").write_text('{"sent": "x')
    service = Service()
    end(begin(service, tmp_path, rows))
    assert service.rows == rows


def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path):
    service = Service()
    hosted = begin(service, tmp_path / "missing", [{"step": 0}])
    news = end(hosted)
    assert "cannot write" in news[0]
    assert news[-1].startswith("1 of 1 rows were not sent")


def test_rows_of_a_run_reach_its_services_and_their_news_its_events(tmp_path, monkeypatch):
    service = Service()
    service.errors = [OSError("down")]
    monkeypatch.setitem(SERVICES, "mlflow", lambda target, folder, config: service.connect)
    record = Record(tmp_path, screen=Screen.quiet(), services={"wandb": "", "mlflow": "somewhere"})
    record.keep_rows(0, 0)
    record.row(1, 0.1, "train", {"loss": 1.0})
    record.ended = True
    record.close()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["kind"], event["text"].split(";")[0]) for event in events][:1] == [("mlflow", "down")]
    assert service.rows == record.rows
    assert service.closed == [True]


def test_numbers_are_those_that_metrics_jsonl_holds():
    assert numbers_of(ROWS[1]) == {"val/epoch": 0.5, "val/loss": 1 / 3, "val/ema/accuracy": 0.5}


def test_options_that_have_no_part_in_a_run_are_left_out():
    flat = {"seed": 1, "model.name": "mlp", "model.mlp.width": 2, "model.cnn.width": 3, "log.every": 4, "study.a.b": 5,
            "log.wandb": "team/project", "log.mlflow": "https://host"}  # fmt: skip
    assert taken(flat) == {"seed": 1, "model.name": "mlp", "model.mlp.width": 2, "log.every": 4}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_says_how_to_install_it(name, monkeypatch, tmp_path):
    check_services({name: ""})
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as caught:
        check_services({name: "x"})
    assert str(caught.value) == f"log.{name}: needs {name}: pip install 'jtrain[{name}]'"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / name).mkdir()  # such as W&B itself leaves in a folder where a run was
    with pytest.raises(ConfigError, match="pip install"):
        check_services({name: "x"})


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.util.spec_from_file_location(name, "x.py"))


@pytest.mark.parametrize(
    "address",
    ["https://me:secret@host", "HTTPS://me:secret@host", "http://me@host", " https://me:secret@host",
     "postgresql://me:secret@db.host/mlflow", "mysql+pymysql://me:secret@host/m", "databricks://token:secret@host",
     "postgresql://host/db?Password=secret"],
)  # fmt: skip
def test_a_password_in_an_address_is_refused_before_anything_keeps_it(address, installed):
    with pytest.raises(ConfigError, match=r"log\.mlflow: .*MLFLOW_TRACKING_PASSWORD.*MLFLOW_TRACKING_URI") as caught:
        check_services({"mlflow": address})
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"log\.mlflow: holds a user's name or password") as caught:
        configs.validate(configs.changed(configs.base(), log__mlflow=address))  # as of a study, which sends nothing
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["", "https://host/a@b", "sqlite:///m@x.db", "postgresql://host/db", "file:/a/b", "runs/mlflow"]
)
def test_an_address_without_a_password_is_taken(address, installed):
    check_services({"mlflow": address})
    configs.validate(configs.changed(configs.base(), log__mlflow=address))


def test_the_address_can_be_left_to_the_environment_and_no_file_has_its_password(tmp_path, installed, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="'env' stands for the address in MLFLOW_TRACKING_URI, which is not set"):
        check_services({"mlflow": "env"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db?sslpassword=secret")
    check_services({"mlflow": "env"})
    given = []
    monkeypatch.setattr(services, "_MLflow", lambda uri, *rest: given.append(uri) or Service())
    record = Record(tmp_path, screen=Screen.quiet(), services={"mlflow": "env"}, config={"log.mlflow": "env"})
    record.keep_rows(0, 0)
    record.close()
    assert given == ["postgresql://me:secret@host/db?sslpassword=secret"]
    assert json.loads((tmp_path / "mlflow.json").read_text())["target"] == "postgresql://host/db"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "secret" in path.read_text()]


def test_an_error_is_told_without_the_password_of_an_address():
    assert hosting.one_line(ValueError("no such host: mysql://me:se/cret@host/m\nagain")) == (
        "no such host: mysql://…@host/m again"
    )


def needs(name):
    found = importlib.util.find_spec(name)
    missing = found is None or found.origin is None
    return pytest.mark.skipif(missing, reason=f"needs {name}: pip install 'jtrain[{name}]'")


def history(folder):
    """Rows of W&B's own files, in the order they were written: LevelDB's log format around protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record as Message

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name):
        content, position, parts = path.read_bytes(), 7, b""
        while position + 7 <= len(content):
            if 32768 - position % 32768 < 7:
                position += 32768 - position % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", content, position)
            if kind == 0:
                break
            parts += content[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or the last part
                message, parts = Message.FromString(parts), b""
                if message.WhichOneof("record_type") == "history":
                    yield {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in message.history.item}
                if message.WhichOneof("record_type") == "run":
                    yield {"_run": message.run.run_id, "_name": message.run.display_name}


def in_wandb(folder):
    """{(name, step): value} and the ids of the runs; of equal names and steps the later row counts."""
    found, ids = {}, set()
    for row in history(folder):
        if "_run" in row:
            ids.add((row["_run"], row["_name"]))
        else:
            found |= {(k, row["step"]): v for k, v in row.items() if k != "step" and not k.startswith("_")}
    return found, ids


def in_mlflow(uri, folder):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("jtrain").experiment_id])
    (run,) = [run for run in runs if run.info.run_name == folder.name]
    found = {}
    for name in run.data.metrics:
        for each in sorted(client.get_metric_history(run.info.run_id, name), key=lambda each: each.timestamp):
            found[name, each.step] = each.value
    return found, run


def wanted(rows):
    return {(name, row["step"]): value for row in rows for name, value in numbers_of(row).items()}


def written(folder, services, rows, *, ended=True, config=None):
    record = Record(folder, screen=Screen.quiet(), services=services, config=config or {"seed": 0, "model.name": "mlp"})
    record.keep_rows(0, 0)
    for row in rows:
        record.row(
            row["step"], row["epoch"], row["split"], {k: v for k, v in row.items() if k not in ("step", "split")}
        )
    record.ended = ended
    record.close()
    return [json.loads(line)["text"] for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    monkeypatch.setattr(hosting, "LEAVE_SECONDS", 60.0)  # a new database of MLflow takes 10 s
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@needs("wandb")
@pytest.mark.filterwarnings("default")
def test_wandb_holds_the_same_numbers_and_without_a_key_writes_them_offline(tmp_path, no_key):
    folder = tmp_path / "a-run"
    events = written(folder, {"wandb": "team/project"}, ROWS)
    assert events == ["written to a-run/wandb, because no key is set (wandb login); `wandb sync` sends it"]
    found, ids = in_wandb(folder)
    assert found == wanted(ROWS)
    assert [name for _, name in ids] == ["a-run"]


@needs("wandb")
@pytest.mark.filterwarnings("default")
def test_wandb_follows_wandb_mode(tmp_path, no_key, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    events = written(tmp_path / "run", {"wandb": "project"}, ROWS)
    assert events == ["disabled, because WANDB_MODE says so"]
    assert list((tmp_path / "run").glob("wandb/offline*")) == []


@needs("mlflow")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["sqlite", "file", "env"])
def test_mlflow_holds_the_same_numbers_and_goes_on_in_the_same_run(tmp_path, no_key, kind, monkeypatch):
    folder, uri = tmp_path / "a-run", f"sqlite:///{tmp_path}/m.db" if kind == "sqlite" else f"file:{tmp_path}/m"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri if kind == "env" else "")
    target = "env" if kind == "env" else uri
    written(folder, {"mlflow": target}, ROWS[:2], ended=False)
    assert in_mlflow(uri, folder)[1].info.status == "KILLED"
    record = Record(folder, screen=Screen.quiet(), services={"mlflow": target}, config={"seed": 1, "model.name": "mlp"})
    record.keep_rows(1, 10)
    later = [{**ROWS[1], "loss": 0.125}, *ROWS[2:]]
    for row in later:
        record.row(
            row["step"], row["epoch"], row["split"], {k: v for k, v in row.items() if k not in ("step", "split")}
        )
    record.ended = True
    record.close()
    found, run = in_mlflow(uri, folder)
    want = wanted([ROWS[0], *later])
    for pattern, name in (("*", "train/lr.head.._"), ("+", "train/lr.head..__2")):
        want[name, 10] = want.pop((f"train/lr/head/.{pattern}", 10))
    assert found == want
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0", "model.name": "mlp"}
    assert run.data.tags["changed.seed"] == "1"


CHILD = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
from helpers import hooked, tiny_run
from jtrain import train
services = {{"log__wandb": "project", "log__mlflow": {uri!r}}}
run = tiny_run("1500steps", log__every="10steps", checkpoint__every="100steps", **services)
run = hooked(run, lambda give, step: (time.sleep(0.01), give())[1])
train(run, {folder!r})
"""


@needs("wandb")
@needs("mlflow")
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_after_a_kill_and_a_resume_both_hold_the_numbers_of_metrics_jsonl(tmp_path, no_key):
    folder, uri = tmp_path / "run", f"sqlite:///{tmp_path}/m.db"
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    child = [sys.executable, "-c", CHILD.format(tests=tests, uri=uri, folder=str(folder))]
    # Without WANDB_SERVICE: it would have the process here hold the run, which is not the one that is killed.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"JAX_PLATFORMS": "cpu"}
    first = subprocess.Popen(child, env=environment)
    until = time.monotonic() + 120
    while time.monotonic() < until and first.poll() is None:
        sent = [folder / f"{name}.json" for name in ("wandb", "mlflow")]  # MLflow cannot open a half made database
        if all(path.exists() and json.loads(path.read_text())["sent"] > 20 for path in sent):
            break
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    subprocess.run(child, env=environment, check=True, timeout=180)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    want = wanted(rows)
    for found in (in_wandb(folder)[0], in_mlflow(uri, folder)[0]):
        assert {key: found.get(key) for key in want} == want
        # A row that was cut may have held a number that its successor lacks: the first has no rate yet.
        assert {name.split("/")[1] for name, _ in found.keys() - want.keys()} <= {"examples_per_second", "data_wait"}
    assert len(in_wandb(folder)[1]) == 1
