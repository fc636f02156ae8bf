"""The pack of CIFAR-10's JPEGs that benchmarks/gpu.py writes, decoded."""

import io
from pathlib import Path

import numpy as np

IMAGES = "images.npz"  # the same decoded, for those without pillow
PAIR = ("images", "labels")


def read_pack(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{'train' and 'test': (images [n, height, width, 3] uint8, labels [n] int32)}."""
    from PIL import Image

    with np.load(path) as arrays:
        found = {}
        for split in ("train", "test"):
            files, ends = arrays[f"{split}_files"].tobytes(), arrays[f"{split}_ends"].tolist()
            images = [
                np.asarray(Image.open(io.BytesIO(files[start:end])))
                for start, end in zip([0, *ends[:-1]], ends, strict=True)
            ]
            found[split] = np.stack(images), arrays[f"{split}_labels"]
        return found
