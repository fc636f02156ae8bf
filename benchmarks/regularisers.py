"""Each regulariser on and off: 5,000 images of CIFAR-10, 5 epochs, 3 seeds; writes docs/regularisers.md.

    TFDS_DATA_DIR=… python benchmarks/regularisers.py [--seeds 3] [--folder runs/regularisers]

Every run has a workdir of its own: stopped or killed, the script goes on where it was.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import jtrain

PAGE = Path(__file__).parents[1] / "docs" / "regularisers.md"


@dataclasses.dataclass(frozen=True)
class Regulariser:
    """A name, what it sets in words, and the fields, as `jtrain.config.changed` takes them."""

    name: str
    words: str
    fields: dict[str, Any]


REGULARISERS = (
    Regulariser("none", "all off", {}),
    Regulariser("weight decay", "`optimizer.sgd.weight_decay=5e-4`", {"optimizer__sgd__weight_decay": 5e-4}),
    Regulariser("dropout", "`model.cnn.dropout=0.5` before the head", {"model__cnn__dropout": 0.5}),
    Regulariser("convolution dropout", "`model.cnn.conv_dropout=0.1`", {"model__cnn__conv_dropout": 0.1}),
    Regulariser(
        "label smoothing", "`loss.cross_entropy.label_smoothing=0.1`", {"loss__cross_entropy__label_smoothing": 0.1}
    ),
    Regulariser("crop and flip", '`augment="pad_crop(4)|flip_lr"`', {"augment": "pad_crop(4)|flip_lr"}),
    Regulariser("cutout", '`augment="cutout(8)"`', {"augment": "cutout(8)"}),
    Regulariser("RandAugment", '`augment="randaugment(1, 5)"`', {"augment": "randaugment(1, 5)"}),
    Regulariser("mixup", '`augment="mixup(0.2)"`', {"augment": "mixup(0.2)"}),
    Regulariser("CutMix", '`augment="cutmix(1.0)"`', {"augment": "cutmix(1.0)"}),
    Regulariser("averaged weights", "`ema.decay=0.98`", {"ema__decay": 0.98}),
)


def config_of(regulariser: Regulariser, seed: int, data: str) -> Any:
    """A narrower CNN than that of configs/cifar.py:small, on little data, without regularisers; then the one."""
    c = jtrain.load(f"cifar:{data}")
    c.seed = seed
    if data == "small":
        c.data.tfds.train = "train[:5000]"
    c.data.validation = 0.0
    c.model.cnn.features = (16, 32, 64, 64)
    c.augment = ""
    c.loss.cross_entropy.label_smoothing = 0.0
    c.optimizer.sgd.weight_decay = 0.0
    c.optimizer.lr = 0.1
    c.schedule.warmup = "0.5epochs"
    c.train.batch_size = 64
    c.train.total = "5epochs"
    c.train.eval_every = "5epochs"
    return jtrain.config.changed(c, **regulariser.fields)


def accuracies(workdir: Path, config: Any) -> tuple[float, float]:
    """(test, train in the last rows) accuracy of a run, trained now unless it was before."""
    rows = workdir / "metrics.jsonl"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    if not any(row["split"] == "test" for row in found):
        found = jtrain.train(jtrain.assemble(config), workdir).history
    test = next(row for row in found if row["split"] == "test")
    train = [row for row in found if row["split"] == "train"][-1]
    return test.get("ema/accuracy", test["accuracy"]), train["accuracy"]


def page(results: dict[str, list[tuple[float, float]]], seeds: int) -> str:
    """The table as Markdown."""
    base = [test for test, _ in results["none"]]
    lines = [
        "# What each regulariser does on little data in little time",
        "",
        "A CNN of four convolutions (16, 32, 64, 64) on the first 5,000 training images of CIFAR-10, 5 epochs,",
        f"{seeds} seeds, each regulariser alone against none; accuracy on the 10,000 test images. *Gap* is accuracy",
        "on the training batches of the last log interval (as the step sees them: augmented, with dropout) less that",
        "on the test.",
        "Made by `python benchmarks/regularisers.py`.",
        "",
        "Five epochs are few: what regularises also slows the fit, so little of it pays here. The gap tells which ones",
        "do what they are for, and a longer run, or one that overfits, is where they belong.",
        "",
        "| regulariser | option | test accuracy: mean (sd) | against none, by seed | gap |",
        "|---|---|---|---|---|",
    ]
    for regulariser in REGULARISERS:
        found = results.get(regulariser.name)
        if not found:
            continue
        tests = [test for test, _ in found]
        spread = f" ({100 * statistics.stdev(tests):.1f})" if len(tests) > 1 else ""
        against = " ".join(f"{100 * (test - plain):+.1f}" for test, plain in zip(tests, base, strict=False))
        gap = statistics.mean(train - test for test, train in found)
        mean = f"{100 * statistics.mean(tests):.1f} %{spread}"
        words = regulariser.words.replace("|", "\\|")
        lines.append(f"| {regulariser.name} | {words} | {mean} | {against} | {100 * gap:+.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing, and writes the page after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/regularisers"))
    parser.add_argument("--data", choices=("small", "shapes"), default="small", help="CIFAR-10, or the procedural set")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in range(given.seeds):
        for regulariser in REGULARISERS:
            workdir = given.folder / f"{regulariser.name.replace(' ', '-')}-{seed}"
            found = accuracies(workdir, config_of(regulariser, seed, given.data))
            results.setdefault(regulariser.name, []).append(found)
            print(f"{regulariser.name:<20} seed {seed}: test {found[0]:.4f}, train {found[1]:.4f}", flush=True)
            given.page.parent.mkdir(exist_ok=True)
            given.page.write_text(page(results, seed + 1))


if __name__ == "__main__":
    main()
