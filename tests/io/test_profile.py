import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from jtrain.errors import ConfigError
from jtrain.io.profile import ProfileWindow, check_window, window


class Run:
    """Updates one by one, with a window over some of them."""

    def __init__(self, folder, text, total=8):
        self.events = []
        self.window = ProfileWindow(folder, text, total=total, event=lambda *event: self.events.append(event))
        self.step = jax.jit(_update)
        self.state = jnp.ones((8, 8))

    def go(self, start, stop):
        for step in range(start, stop):
            self.window.at(step, self.state)
            self.state = self.step(self.state)
        self.window.at(stop, self.state)
        return self


def _update(x):
    return x @ x / 8


def traces(folder):
    return list((folder / "profile").rglob("*.trace.json.gz"))


def names(path):
    return [event.get("name", "") for event in json.loads(gzip.open(path).read())["traceEvents"]]


def test_a_window_is_two_boundaries_between_updates():
    assert window("") is None
    assert window("100:110") == (100, 110)


@pytest.mark.parametrize(
    "text", ["100", "5:", ":5", "a:b", "1:2:3", "-1:2", "5:5", "9:3", "0:99999999999", "1.0:2", "²:³"]
)
def test_a_window_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"such as '100:110'|below 2147483648"):
        check_window(text)


def test_the_trace_opens_and_holds_just_the_updates_of_the_window(tmp_path):
    run = Run(tmp_path, "3:6").go(0, 8)
    run.window.close()
    (path,) = traces(tmp_path)
    assert list(path.parent.glob("*.xplane.pb"))
    calls = [name for name in names(path) if name.startswith("PjitFunction(_update)")]
    assert len(calls) in (3, 6)  # an event each, or one for its beginning and one for its end
    ((kind, text, step),) = run.events
    assert (kind, step) == ("profile", 6)
    assert text.startswith("updates 4 to 6 are in")
    assert str(path) in text


def test_a_run_that_ends_within_the_window_leaves_what_there_is(tmp_path):
    run = Run(tmp_path, "2:100", total=4).go(0, 4)
    run.window.close()
    run.window.close()
    assert len(traces(tmp_path)) == 1
    assert [event[1].split(" are")[0] for event in run.events] == ["updates 3 to 4"]


def test_a_resumed_run_profiles_what_is_left_of_the_window_and_behind_it_nothing(tmp_path):
    run = Run(tmp_path / "within", "1:4").go(3, 6)
    assert run.events[0][1].startswith("updates 4 to 4 are in")
    behind = Run(tmp_path / "behind", "1:4").go(5, 7)
    behind.window.close()
    assert behind.events == []
    assert not (tmp_path / "behind").exists()


def test_a_run_that_goes_back_ends_the_profile(tmp_path):
    run = Run(tmp_path, "3:6").go(0, 5)
    run.window.at(2, run.state)
    assert run.events[0][1].startswith("updates 4 to 5 are in")
    run.go(2, 8)
    assert len(traces(tmp_path)) == 1


def test_a_window_beyond_the_end_is_told_at_the_start(tmp_path):
    run = Run(tmp_path, "8:9", total=8).go(0, 3)
    assert run.events == [("profile", "log.profile begins after update 8, the run has 8: nothing is profiled", 0)]


def test_without_a_workdir_a_profile_is_an_error():
    ProfileWindow(None, "", total=1, event=print).close()
    with pytest.raises(ConfigError, match=r"^log\.profile: needs a workdir"):
        ProfileWindow(None, "1:2", total=1, event=print)


def test_a_profile_that_cannot_be_made_does_not_end_the_run(tmp_path):
    other = Run(tmp_path / "one", "0:3")
    other.window.at(0, other.state)
    run = Run(tmp_path / "two", "0:3").go(0, 4)
    assert run.events[0][1].startswith("cannot begin: ")
    other.go(1, 4)
    assert len(traces(tmp_path / "one")) == 1
    (tmp_path / "file").write_text("")
    run = Run(tmp_path / "file", "0:3").go(0, 4)
    assert run.events[0][1].startswith("cannot begin: ")
