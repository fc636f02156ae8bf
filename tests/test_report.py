import io
import json
import os
import re
import shutil

import chromium
import helpers
import numpy as np
import page_check
import pytest
from PIL import Image

from jtrain.assembly import assemble
from jtrain.errors import ConfigError, DataError
from jtrain.io.progress import Screen
from jtrain.loop import train
from jtrain.verbs.predict import predict
from jtrain.verbs.report import report
from jtrain.verbs.report_mistakes import as_pictures


def pictures(count, seed):
    """Images of two classes, dark and bright, of which a tenth bear the other's label."""
    rng = np.random.default_rng(seed)
    targets = (np.arange(count) % 2).astype(np.int32)
    inputs = rng.integers(0, 120, (count, 6, 5, 1)) + 130 * targets.reshape(-1, 1, 1, 1)
    labels = np.where(np.arange(count) % 10 == 3, 1 - targets, targets)
    return inputs.astype(np.uint8), labels.astype(np.int32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of pictures: (its folder, its data)."""
    folder, data = tmp_path_factory.mktemp("runs") / "bright", {"train": pictures(80, 0), "test": pictures(40, 1)}
    train(assemble(helpers.tiny(), data=data), folder)
    return folder, data


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A finished run of regression: (its folder, its data)."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 4)).astype(np.float32)
    targets = (inputs @ np.array([[1.0, 2.0], [0, 1], [3, 0], [0, 0]]) + 5).astype(np.float32)
    folder, data = (
        tmp_path_factory.mktemp("runs") / "line",
        {"train": (inputs, targets), "test": (inputs[:20], targets[:20])},
    )
    train(assemble(helpers.tiny(task__name="regression"), data=data), folder)
    return folder, data


def test_the_confusion_matrix_and_the_worst_mistakes_are_those_of_the_predictions(trained):
    folder, data = trained
    page = page_check.read(report(folder, data=data))
    found = predict(folder, data=data)
    _, targets = data["test"]
    wrong = np.flatnonzero(found.argmax(axis=1) != targets)
    assert len(wrong)
    assert f"{40 - len(wrong)} right, {len(wrong)} wrong" in page.text
    for truth in (0, 1):
        counts = np.bincount(found.argmax(axis=1)[targets == truth], minlength=2)
        row = page.html.partition('class="confusion"')[2].partition(f'title="{truth}">{truth}</th><td')[2]
        assert re.findall(r">([\d·]+)</td>", f"<td{row}")[:2] == [str(count) if count else "·" for count in counts]
    worst = wrong[np.argsort(found[wrong, targets[wrong]])][:24]
    shown = page.html.partition('class="faces pixels"')[2]
    places = [shown.find(f"no. {row}<") for row in worst]
    assert -1 not in places
    assert places == sorted(places)
    assert shown.count("<img") == len(worst)
    assert "data.name" in page.html.partition('id="config"')[2].partition("<details>")[0]


def test_a_run_whose_data_are_gone_is_shown_without_mistakes(trained):
    folder, _ = trained
    screen = io.StringIO()
    page = page_check.read(report(folder, screen=Screen(screen, live=False)))
    assert "could not be restored" in page.text
    assert "arrays of a program" in page.text
    assert "without mistakes" in screen.getvalue()
    assert "<h3>Loss</h3>" in page.html


def test_a_run_without_its_checkpoint_is_shown_without_mistakes(trained, tmp_path):
    folder, data = trained
    shutil.copytree(folder, tmp_path / "copy")
    for path in (tmp_path / "copy" / "checkpoints").glob("*/manifest.json"):
        path.write_text("damaged")
    assert "could not be restored" in page_check.read(report(tmp_path / "copy", data=data)).text
    shutil.rmtree(tmp_path / "copy" / "checkpoints")
    assert "could not be restored" not in page_check.read(report(tmp_path / "copy", data=data)).text


def test_residuals_are_those_of_the_predictions(numbers):
    folder, data = numbers
    page = page_check.read(report(folder, data=data))
    found, targets = predict(folder, data=data), data["test"][1]
    size = np.abs(found - targets) / targets.std(axis=0)
    row, output = np.unravel_index(size.argmax(), size.shape)
    first = page.html.partition("The largest differences</h3>")[2].partition("<tbody>")[2].partition("</tr>")[0]
    cells = first.replace("</th>", "|").replace("</td>", "|").split("|")
    assert [cell.rpartition(">")[2] for cell in cells[:2]] == [str(row), str(output)]
    assert page.html.count("Predictions over targets: ") >= 2


def test_several_runs_go_on_one_page_in_the_folder_that_they_share(trained, tmp_path):
    folder, _ = trained
    for name in ("a", "b"):
        shutil.copytree(folder, tmp_path / "runs" / name)
    (tmp_path / "runs" / "c").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("")
    screen = io.StringIO()
    path = report(*sorted((tmp_path / "runs").iterdir()), screen=Screen(screen, live=False))
    assert path == tmp_path / "runs" / "comparison.html"
    assert screen.getvalue().splitlines()[-1] == f"report: {path}"
    page = page_check.read(path)
    assert "2 runs" in page.text
    assert "c: holds neither a run nor a study" in page.text
    assert "The configs are the same" in page.text
    assert "c: holds neither" in screen.getvalue()
    assert "notes.txt" not in page.text


def test_comparing_the_runs_of_a_study_leaves_the_studys_own_page(trained, tmp_path):
    folder, _ = trained
    (tmp_path / "study.json").write_text(json.dumps({"study": "act", "conclusion": "the answer", "ok": True}))
    own = report(tmp_path).read_bytes()
    runs = [shutil.copytree(folder, tmp_path / name) for name in ("a", "b")]
    assert report(*runs) == tmp_path / "comparison.html"
    assert (tmp_path / "report.html").read_bytes() == own
    assert report(*runs, out=tmp_path / "a") == tmp_path / "a" / "comparison.html"


def test_a_comparison_of_runs_far_apart_or_of_somebody_else_goes_where_one_is(trained, tmp_path, monkeypatch):
    folder, _ = trained
    runs = [shutil.copytree(folder, tmp_path / "runs" / name) for name in ("a", "b")]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path / "runs")
    assert report(*runs) == tmp_path / "here" / "comparison.html"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(os.path, "commonpath", lambda paths: "/")
    (tmp_path / "here" / "comparison.html").unlink()
    assert report(*runs) == tmp_path / "here" / "comparison.html"
    assert not list((tmp_path / "runs").glob("*.html"))


def test_the_file_can_be_elsewhere(trained, tmp_path):
    folder, _ = trained
    assert report(folder, out=tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"
    assert report(folder, out=tmp_path).name == "report.html"
    page_check.read(tmp_path / "report.html")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs the folder"):
        report()
    with pytest.raises(DataError, match="neither a run nor a study"):
        report(tmp_path)
    with pytest.raises(DataError, match="none of them holds"):
        report(tmp_path, tmp_path / "gone")


def test_pictures_hold_the_pixels():
    gray = np.arange(2 * 30, dtype=np.uint8).reshape(2, 6, 5, 1)
    for image, (png, side) in zip(gray, as_pictures(gray), strict=True):
        assert side == 6
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), image[..., 0])
    colour = np.linspace(-1, 3, 4 * 4 * 3).reshape(1, 4, 4, 3)
    read = np.asarray(Image.open(io.BytesIO(as_pictures(colour)[0][0])))
    assert np.array_equal(read, np.round((colour[0] + 1) / 4 * 255).astype(np.uint8))
    large = np.zeros((1, 400, 200, 3), np.uint8)
    assert Image.open(io.BytesIO(as_pictures(large)[0][0])).size == (48, 96)
    assert as_pictures(np.full((1, 8, 8, 1), np.nan))[0][1] == 8


@pytest.mark.parametrize("shape", [(2, 64), (2, 5), (2, 8, 3), (2, 8, 8, 7), (2, 1, 9, 3)])
def test_inputs_that_are_no_images_have_no_pictures(shape):
    assert as_pictures(np.zeros(shape, np.float32)) == []


@pytest.mark.slow
def test_a_browser_shows_it_without_errors_or_requests(trained, numbers, tmp_path):
    if chromium.find() is None:
        pytest.skip("no chromium here: apt-get install chromium")
    (folder, data), (other, other_data) = trained, numbers
    verdict = {"name": "overfitting", "text": "t", "action": "a", "evidence": {}, "marks": [[10, "here"]]}
    noise = {"step": 9, "noise_scale": 40.0, "low": 30.0, "high": 55.0, "suggested_batch": 32}
    (folder / "coach.json").write_text(json.dumps({"lint": [], "diagnosis": [verdict], "noise": noise}))
    pages = [
        report(folder, data=data),
        report(other, data=other_data),
        report(folder, other, out=tmp_path / "both.html"),
    ]
    with chromium.Chromium() as browser:
        grounds = set()
        for path in pages:
            for width, dark in ((1280, False), (1280, True), (390, False), (390, True), (360, False)):
                browser.open(path, width=width, dark=dark)
                assert browser.run("document.documentElement.scrollWidth") <= width, (path, width)
                narrow = "Array.from(document.querySelectorAll('.xs span,.ys span,p,dd,h1,h2,h3'),"
                narrow += "e=>parseFloat(getComputedStyle(e).fontSize)).filter(s=>s<12).length"
                assert browser.run(narrow) == 0
                broken = "Array.from(document.querySelectorAll('.tiles dd'),"
                broken += "e=>e.scrollWidth>e.clientWidth).filter(b=>b).length"
                assert browser.run(broken) == 0
                grounds.add((dark, browser.run("getComputedStyle(document.body).backgroundColor")))
                assert browser.run("Array.from(document.images,i=>i.naturalWidth).filter(w=>w==0).length") == 0
        assert len(grounds) == 2
        browser.open(pages[0])
        box = browser.run("JSON.stringify(document.querySelector('.area').getBoundingClientRect())")
        box = json.loads(box)
        browser.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert browser.run("document.querySelector('.read').textContent").startswith("update ")
        browser.open(pages[2])
        order = "Array.from(document.querySelectorAll('table.sortable tbody th'),e=>e.textContent).join()"
        heads = "document.querySelectorAll('table.sortable thead th')[0]"
        both = {browser.run(f"{heads}.click();{order}") for _ in range(2)}
        assert both == {"bright,line", "line,bright"}
        browser.print(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").stat().st_size > 5000
        assert not browser.errors
        assert not [url for url in browser.requests if not url.startswith(("file:", "data:"))]
