import socket

import pytest
from matplotlib.figure import Figure

from jtrain.io.checkpoint import Checkpoints


@pytest.fixture
def events():
    return []


@pytest.fixture
def make(tmp_path, events):
    made = []

    def make(keep=5, **options):
        one = Checkpoints(tmp_path / "checkpoints", keep=keep, event=lambda *e: events.append(e), **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one._thread.shutdown()


@pytest.fixture
def two_ports():
    """The first of two ports, one after the other, that are free now."""
    for _ in range(50):
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except (OSError, OverflowError):
                continue
    raise AssertionError("no two ports are free")


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is made, so that its axes can be read."""
    figures = []
    real = Figure.__init__

    def note(self, *arguments, **options):
        figures.append(self)
        real(self, *arguments, **options)

    monkeypatch.setattr(Figure, "__init__", note)
    return figures
