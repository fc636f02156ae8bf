"""What augmentation costs inside a compiled step, and how fast the ops are beside plain NumPy.

    python benchmarks/augment_cost.py step [--rounds 7] [--batch 32]
    python benchmarks/augment_cost.py ops  [--rounds 15] [--batch 128]

`step`: ResNet-18 in its CIFAR form, jtrain's own train step with and without augmentation, in turn, by the clock on the
wall and by processor time, which other programs disturb less. `ops`: images per second of the compiled op and of the
same op in NumPy, vectorised over the batch, on uint8 images of 32 x 32 x 3, in turn. Printed are medians of paired
ratios with their range.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jtrain
from jtrain.data import augment
from jtrain.data.examples import ArrayExamples, DataSet

SHORT = "pad_crop(4)|flip_lr"
LONG = "resized_crop((0.3, 1.0))|flip_lr|rotate(15)|contrast|hue|noise|cutout(8)"
STEP_CHAINS = ("", SHORT, LONG, "pad_crop(4)|flip_lr|randaugment(2, 9)")
CALLS = 10  # of an op within one measurement


def images(count: int) -> np.ndarray:
    """Random bytes: no op is faster on other ones."""
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def ratios(times: dict[str, list[float]], over: str, under: str) -> str:
    """The median of paired ratios, with least and greatest."""
    found = [a / b for a, b in zip(times[over], times[under], strict=True)]
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def in_turn(
    contenders: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each contender by `clock`, called in turn, every round with another one first."""
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        contenders[name]()
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            begun = clock()
            contenders[name]()
            times[name].append(clock() - begun)
    return times


def make_step(text: str, batch: int) -> Callable[[], None]:
    """One training step of ResNet-18 with this augmentation."""
    inputs = images(batch * 4)
    targets = np.random.default_rng(1).integers(0, 10, len(inputs)).astype(np.int32)
    c = jtrain.config.base()
    c.data.validation, c.model.name, c.augment, c.mesh.devices = 0.0, "resnet", text, 1
    c.optimizer.name = "sgd"
    c.train.batch_size = batch
    run = jtrain.assemble(c, data=DataSet("random", ArrayExamples(inputs, targets), None, None, num_outputs=10))
    state, step = run.init_state(), 0

    def call() -> None:
        nonlocal state, step
        state, sums = run.train_step(state, *run.feeds["train"].train_batch(run.order, step))
        jax.block_until_ready((state, sums))
        step += 1

    return call


def measure_step(rounds: int, batch: int) -> None:
    """Prints what each chain adds to a step."""
    contenders = {text or "none": make_step(text, batch) for text in STEP_CHAINS}
    for word, clock in (("wall", time.perf_counter), ("processor", time.process_time)):
        times = in_turn(contenders, rounds, clock)
        seconds = statistics.median(times["none"])
        print(f"step of ResNet-18, batch {batch}: {seconds:.2f} s of {word} time without augmentation")
        for text in STEP_CHAINS[1:]:
            print(f"  {text}: {ratios(times, text, 'none')} of it")


def measure_ops(rounds: int, batch: int) -> None:
    """Prints the speed of each op and of a chain; that of crop, flip and normalising is measured by input.py."""
    given, rng = images(batch), np.random.default_rng(0)
    placed, keys = jnp.asarray(given), [jax.random.key(number) for number in range(CALLS)]
    print(f"images/s at batch {batch}: compiled, NumPy, and their ratio")
    for text, plain in {**NUMPY, LONG: CHAIN}.items():
        op = jax.jit(augment.build(text))

        def compiled(op: Any = op) -> None:
            jax.block_until_ready([op(placed, key) for key in keys])

        def in_numpy(plain: Any = plain) -> None:
            for _ in range(CALLS):
                out = given
                for step in plain:
                    out = step(out, rng)

        times = in_turn({"compiled": compiled, "numpy": in_numpy}, rounds)
        rates = [CALLS * batch / statistics.median(times[name]) for name in ("compiled", "numpy")]
        print(f"  {text}: {rates[0]:,.0f}, {rates[1]:,.0f}, {ratios(times, 'numpy', 'compiled')}")


def pad_crop(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`pad_crop(4)` in NumPy; what follows are the other ops likewise."""
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    corners = rng.integers(0, 9, (len(x), 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[1:3], axis=(1, 2))
    return np.ascontiguousarray(np.moveaxis(windows[np.arange(len(x)), corners[:, 0], corners[:, 1]], 1, -1))


def flip_lr(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`flip_lr`."""
    out, flipped = x.copy(), rng.random(len(x)) < 0.5
    out[flipped] = x[flipped, :, ::-1]
    return out


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Float values as uint8, rounded and clipped, in place."""
    return np.clip(np.rint(values, out=values), 0, 255, out=values).astype(np.uint8)


def bilinear(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear values at the given places."""
    batch, height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0))).reshape(-1, channels)
    rows, columns = np.clip(rows, -1, height), np.clip(columns, -1, width)
    y, x0 = np.floor(rows), np.floor(columns)
    down, right = (rows - y)[..., None], (columns - x0)[..., None]
    base = np.arange(batch)[:, None, None] * ((height + 3) * (width + 3))
    place = base + (y.astype(np.int32) + 1) * (width + 3) + x0.astype(np.int32) + 1
    above = padded[place] * (1 - right) + padded[place + 1] * right
    below = padded[place + width + 3] * (1 - right) + padded[place + width + 4] * right
    return to_bytes(above * (1 - down) + below * down)


def rotate(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`rotate(15)`."""
    angle = np.radians(rng.uniform(-15, 15, (len(x), 1, 1))).astype(np.float32)
    y, z = (np.arange(32, dtype=np.float32)[shape] - 15.5 for shape in ((None, slice(None), None), (None, None)))
    sin, cos = np.sin(angle), np.cos(angle)
    return bilinear(x, cos * y + sin * z + 15.5, cos * z - sin * y + 15.5)


def resized_crop(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`resized_crop((0.3, 1.0))`; parts that do not fit are cut to the image."""
    area = rng.uniform(0.3, 1, len(x)) * 1024
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), len(x)))
    sides = [np.clip(np.rint(np.sqrt(a)), 1, 32) for a in (area / ratio, area * ratio)]
    places = []
    for side in sides:
        start = np.floor(rng.random(len(x)) * (33 - side))[:, None]
        place = start + (np.arange(32) + 0.5) * (side[:, None] / 32) - 0.5
        places.append(np.clip(place, start, start + side[:, None] - 1).astype(np.float32))
    shape = (len(x), 32, 32)
    return bilinear(x, np.broadcast_to(places[0][:, :, None], shape), np.broadcast_to(places[1][:, None], shape))


def contrast(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`contrast`."""
    factor = rng.uniform(0.6, 1.4, (len(x), 1, 1, 1)).astype(np.float32)
    values = x.astype(np.float32)
    mean = (values.mean(axis=(1, 2)) @ np.float32([0.299, 0.587, 0.114]))[:, None, None, None]
    return to_bytes(factor * values + (1 - factor) * mean)


def hue(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`hue`."""
    turn = rng.uniform(-0.1, 0.1, (len(x), 1, 1)).astype(np.float32)
    values = x.astype(np.float32)
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    top = np.maximum(np.maximum(red, green), blue)
    spread = top - np.minimum(np.minimum(red, green), blue)
    safe = np.where(spread > 0, spread, 1)
    rest = np.where(top == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sector = np.where(top == red, (green - blue) / safe, rest) + 6 * turn
    out = np.empty_like(values)
    for channel, offset in enumerate((5, 3, 1)):
        place = sector + offset
        place -= 6 * np.floor(place / 6)
        out[..., channel] = top - spread * np.clip(np.minimum(place, 4 - place), 0, 1)
    return to_bytes(out)


def noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`noise`."""
    values = rng.standard_normal(x.shape, np.float32)
    values *= np.float32(0.05 * 255)
    values += x
    return to_bytes(values)


def cutout(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`cutout(8)`."""
    top, left = (rng.integers(0, 32, (len(x), 1)) - 4 for _ in range(2))
    line = np.arange(32)[None]
    hole = ((line >= top) & (line < top + 8))[:, :, None] & ((line >= left) & (line < left + 8))[:, None]
    return np.where(hole[..., None], np.uint8(0), x)


CHAIN = (resized_crop, flip_lr, rotate, contrast, hue, noise, cutout)
NUMPY: dict[str, tuple[Callable[..., np.ndarray], ...]] = {
    "pad_crop(4)": (pad_crop,), "flip_lr": (flip_lr,), "rotate(15)": (rotate,), "contrast": (contrast,), "hue": (hue,),
    "resized_crop((0.3, 1.0))": (resized_crop,), "noise": (noise,), "cutout(8)": (cutout,),
}  # fmt: skip


def main() -> None:
    """Measures and prints what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "ops"))
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--batch", type=int, default=0)
    given = parser.parse_args()
    print(f"jax {jax.__version__}, {jnp.zeros(()).devices()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if given.what == "step":
        measure_step(given.rounds or 7, given.batch or 32)
    else:
        measure_ops(given.rounds or 15, given.batch or 128)


if __name__ == "__main__":
    main()
