"""Does pre-training without labels pay? configs/digits_finetune.py from scratch and from digits_pretrain.py.

    python benchmarks/transfer.py [--seeds 5] [--folder runs/transfer]        writes docs/transfer.md

A seed draws the labelled images, the weights and the order of both runs. Finished runs are not repeated.
"""

import argparse
import json
import statistics
from pathlib import Path

import jtrain

PAGE = Path(__file__).parents[1] / "docs" / "transfer.md"
PRETRAINING = {"autoencoder": "", "denoising": ":denoising", "rotation": ":rotation"}


def run(name: str, seed: int, workdir: Path) -> float:
    """Test accuracy (nan for a task without one) of a shipped config, trained in `workdir` unless it was before."""
    rows = workdir / "metrics.jsonl"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    if not any(row["split"] == "test" for row in found):
        config = jtrain.load(name)
        config.seed = seed
        found = jtrain.train(jtrain.assemble(config), workdir).history
    return next(row for row in found if row["split"] == "test").get("accuracy", float("nan"))


def page(results: dict[str, list[float]], labels: int) -> str:
    """The table as Markdown."""
    scratch = results["from scratch"]
    lines = [
        "# Pre-training without labels, then few labels",
        "",
        f"`configs/digits_finetune.py`: a CNN trained on {labels} labelled digits (as many of each class),",
        f"{len(scratch)} seeds, test accuracy on 359 images. The pre-trained encoders saw all 1,294 training images,",
        "without labels (`configs/digits_pretrain.py`). Made by `python benchmarks/transfer.py`.",
        "",
        "| start | test accuracy: mean (sd) | each seed | better than from scratch, by seed |",
        "|---|---|---|---|",
    ]
    for name, found in results.items():
        each = " ".join(f"{100 * value:.1f}" for value in found)
        gain = " ".join(f"{100 * (a - b):+.1f}" for a, b in zip(found, scratch, strict=False))
        spread = f" ({100 * statistics.stdev(found):.1f})" if len(found) > 1 else ""
        lines.append(f"| {name} | {100 * statistics.mean(found):.1f} %{spread} | {each} | {gain} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    results: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        found = {"from scratch": run("digits_finetune", seed, given.folder / f"scratch-{seed}")}
        for name, argument in PRETRAINING.items():
            pretrained = given.folder / f"{name}-{seed}"
            run(f"digits_pretrain{argument}", seed, pretrained)
            found[name] = run(f"digits_finetune:{pretrained}", seed, given.folder / f"from-{name}-{seed}")
        for name, value in found.items():
            results.setdefault(name, []).append(value)
            print(f"seed {seed}  {name:<14} {value:.4f}", flush=True)
    given.page.parent.mkdir(exist_ok=True)
    given.page.write_text(page(results, jtrain.load("digits_finetune").data.examples))


if __name__ == "__main__":
    main()
