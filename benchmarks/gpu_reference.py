"""One piece of what benchmarks/gpu.py measures, of torch or of a script of others; prints what it found as JSON.

python benchmarks/gpu_reference.py script FILE RUNS | resnet     --pack FILE --out DIR [--tiny]
"""

import argparse
import json
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu_data import IMAGES, PAIR

ROUNDS, UPDATES, BATCH = 7, 48, 1024
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def script(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds and test accuracy of each run of a script, by the table that it prints."""
    import torch

    file, runs = Path(given.more[0]), int(given.more[1])
    folder = given.out.resolve() / "references" / file.stem
    (folder / "cifar10").mkdir(parents=True, exist_ok=True)
    arrays = np.load(given.out / IMAGES)
    for split in ("train", "test"):
        images, labels = (torch.from_numpy(arrays[f"{split}_{what}"]) for what in PAIR)
        torch.save({"images": images, "labels": labels.long(), "classes": CLASSES}, folder / "cifar10" / f"{split}.pt")
    fewer = re.sub(r"\bin range\(\d{2,}\)\]?", lambda at: re.sub(r"\d+", str(runs), at[0]), file.read_text())
    (folder / file.name).write_text(fewer)
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, file.name], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    found = read_table(done.stdout)
    found["compiling"] = [time.perf_counter() - begun - sum(found["seconds"])]  # and all else that is no training
    return found | {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else ""}


def read_table(text: str) -> dict[str, list[float]]:
    """{"seconds", "accuracy"} by run, of lines '| a | b |' below a head that names the columns.

    A run's line has 'eval' in some column and its time under time_seconds; a run called warmup does not count.

    Raises:
      SystemExit: there is no such line.
    """
    head: list[str] = []
    found: dict[str, list[float]] = {"seconds": [], "accuracy": []}
    warmup = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "time_seconds" in cells:
            head = cells
            continue
        if not head or len(cells) != len(head):
            continue
        row = dict(zip(head, cells, strict=True))
        warmup = row.get("run", "") == "warmup" if row.get("run") else warmup
        if "eval" in cells and not warmup:
            found["seconds"].append(float(row["time_seconds"]))
            found["accuracy"].append(float(row.get("tta_val_acc") or row["val_acc"]))
    if not found["seconds"]:
        raise SystemExit("it printed no line of a run with 'eval' and time_seconds")
    return found


def resnet(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image of ResNet-18's training in torch: channels last, bfloat16, compiled."""
    import torch

    module = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "golden" / "make_resnet18.py"))["ResNet18"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, updates = (8, 2) if given.tiny else (BATCH, UPDATES)
    model = module().to(device, memory_format=torch.channels_last)
    forward = model if given.tiny else torch.compile(model, mode="max-autotune")
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    inputs = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (batch,), device=device)
    seconds = []
    for number in range(ROUNDS + 1):
        begun = time.perf_counter()
        for _ in range(updates):
            with torch.autocast(device, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(forward(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()
        seconds += [(time.perf_counter() - begun) / updates / batch] if number else []
    return {"seconds": seconds, "device": torch.cuda.get_device_name() if device == "cuda" and not given.tiny else ""}


def main() -> None:
    """Measures one piece."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=("script", "resnet"))
    parser.add_argument("more", nargs="*")
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    print(json.dumps({"script": script, "resnet": resnet}[given.piece](given)))


if __name__ == "__main__":
    main()
