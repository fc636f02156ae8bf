"""What the input contenders share: images of CIFAR's shape, how they are normalised, and a check of what comes out."""

import numpy as np

COUNT, SIDE, PAD = 50_000, 32, 4
MEAN = np.float32([0.4914, 0.4822, 0.4465]) * 255
STD = np.float32([0.2470, 0.2435, 0.2616]) * 255
BLOCK = 0.5  # seconds that a block takes at least


def images() -> np.ndarray:
    """Random bytes [50,000, 32, 32, 3]: no way is faster on other ones."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)


def padded(source: np.ndarray) -> np.ndarray:
    """The images with 4 black pixels at every side."""
    return np.pad(source, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))


def shares(source: np.ndarray, rows: np.ndarray, outputs: np.ndarray) -> list[float]:
    """[share of the outputs [n, 32, 32, 3] that are a crop of their source, mirrored or not, normalised: must be 1;
    1 if at least two corners and both ways of mirroring were seen]."""
    right, seen = 0, set()
    for image, found in zip(padded(source[rows]), outputs, strict=True):
        for top in range(2 * PAD + 1):
            for left in range(2 * PAD + 1):
                crop = (image[top : top + SIDE, left : left + SIDE] - MEAN) / STD
                for mirrored, wanted in enumerate((crop, crop[:, ::-1])):
                    if np.allclose(found, wanted, atol=1e-4):
                        right += 1
                        seen.add((top, left, mirrored))
    varied = len({corner[:2] for corner in seen}) > 1 and len({corner[2] for corner in seen}) == 2
    return [right / len(rows), float(varied)]
