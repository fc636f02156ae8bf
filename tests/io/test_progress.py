import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jtrain.io.progress import BARS, Screen, count_words, duration_words, sparkline


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def go(screen, step, **changes):
    values = {
        "total": 200,
        "epoch": step / 100,
        "rate": 6400.0,
        "loss": 0.5,
        "lr": 0.1,
        "wait": 0.125,
        "batch_size": 64,
    }
    screen.progress(step=step, **values | changes)


def test_without_a_terminal_progress_is_a_plain_line_per_call():
    stream = io.StringIO()
    screen = Screen(stream)
    go(screen, 50)
    go(screen, 200, rate=None, wait=None)
    first, second = stream.getvalue().splitlines()
    # 150 steps of 64 examples at 6400 a second
    assert first == " 25%  step  50/200, loss 0.5, lr 0.1, 6,400 examples/s, 1.5 s left, waiting 12%, epoch 0.50"
    assert second == "100%  step 200/200, loss 0.5, lr 0.1, epoch 2.00"


def test_on_a_terminal_a_bar_moves_and_lines_go_above_it():
    stream = Terminal()
    screen = Screen(stream)
    go(screen, 50)
    screen.line("an event")
    go(screen, 100)
    screen.close()
    drawn = stream.getvalue().replace("\n", "\r").split("\r")
    bars = [part for part in drawn if "/200" in part]
    assert " 25%" in bars[0]
    assert "50/200" in bars[0]
    assert "6,400 examples/s" in bars[0]
    assert " 50%" in bars[-1]
    assert "an event" in drawn
    assert stream.getvalue().endswith("\n")


def test_the_bar_ends_with_the_run():
    stream = Terminal()
    screen = Screen(stream)
    go(screen, 200)
    screen.line("summary")
    assert stream.getvalue().endswith("\nsummary\n")


def test_evaluation_rows_line_up():
    stream = io.StringIO()
    screen = Screen(stream)
    screen.row({"step": 5, "epoch": 0.5, "split": "val", "loss": 2.302585, "accuracy": 0.1})
    screen.row({"step": 12345, "epoch": 12.25, "split": "test", "loss": 1.2e-5, "accuracy": None})
    first, second = stream.getvalue().splitlines()
    for word in ("epoch", "loss", "accuracy"):
        assert first.index(word) == second.index(word)
    assert "loss 2.303" in first
    assert second.endswith("accuracy none")


def test_a_quiet_screen_says_nothing(capfd):
    screen = Screen.quiet()
    screen.line("x")
    go(screen, 5)
    screen.row({"step": 1, "epoch": 1.0, "split": "val", "loss": 1.0})
    screen.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("live", [True, False])
def test_a_stream_without_the_glyphs_gets_ascii(encoding, live):
    raw = io.BytesIO()
    screen = Screen(io.TextIOWrapper(raw, encoding=encoding), live=live)
    go(screen, 5)
    screen.line(f"lr 0.1 → 0.05 … {BARS} 漢")
    screen.close()
    text = raw.getvalue().decode(encoding)
    assert "lr 0.1 -> 0.05 ... _.,-=+*# ?" in text
    assert "█" not in text


@pytest.mark.parametrize("live", [True, False])
def test_a_stream_that_breaks_falls_silent(live):
    class Broken(Terminal):
        calls = 0

        def write(self, text):
            self.calls += 1
            raise BrokenPipeError(32, "Broken pipe")

    stream = Broken()
    screen = Screen(stream, live=live)
    go(screen, 5)
    screen.line("x")
    go(screen, 6)
    screen.close()
    assert stream.calls == 1


def test_a_closed_stream_falls_silent():
    stream = io.StringIO()
    screen = Screen(stream)
    stream.close()
    screen.line("x")
    assert screen._stream.silent


def test_a_stream_closed_before_the_screen_is_made_is_silent():
    stream = io.StringIO()
    stream.close()
    screen = Screen(stream)
    go(screen, 5)
    screen.line("x")
    assert screen._stream.silent


def test_a_program_without_any_output_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as with `>&-`
    screen = Screen()
    go(screen, 5)
    screen.line("x")
    screen.close()
    assert screen._stream.silent


def test_a_pipe_to_head_does_not_end_the_program(tmp_path):
    code = (
        "import sys; from pathlib import Path; from jtrain.io.progress import Screen\n"
        "screen = Screen()\n"
        "for i in range(20000): screen.line(f'line {i}')\n"
        f"Path({str(tmp_path / 'done')!r}).write_text('done')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"line 0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 0
    assert (tmp_path / "done").exists()


def test_a_sparkline_shows_low_to_high():
    assert sparkline(range(8)) == BARS
    assert sparkline([0, 0, 7, 7, 0, 0], width=3) == "▁█▁"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([0, float("nan"), float("inf"), 1]) == "▁  █"
    assert sparkline([]) == ""
    assert len(sparkline(range(1000))) == 40


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"),
        (3599.7, "1 h"), (5040, "1 h 24 min"), (86399, "23 h 59 min"), (183600, "2 d 3 h"),
        (float("inf"), "unknown time"),
    ],
)  # fmt: skip
def test_durations_in_words(amount, words):
    assert duration_words(amount) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0"), (950, "950"), (999, "999"), (1000, "1.0 k"), (12_345, "12.3 k"), (999_960, "1.0 M"),
        (11_181_642, "11.2 M"), (1.5e9, "1.5 G"), (2e12, "2.0 T"), (0.25, "0.25"),
    ],
)  # fmt: skip
def test_counts_in_words(number, words):
    assert count_words(number) == words
