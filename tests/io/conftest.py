import pytest

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
