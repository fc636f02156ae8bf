"""Crop, flip and normalise by a torch DataLoader. case: batch; workers; way 'item' | 'windows' | 'loop'."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from contenders.input_data import BLOCK, COUNT, MEAN, PAD, SIDE, STD, images, padded, shares

AHEAD = 8  # batches thrown away before the clock: more than workers make while others have their turn


class Items(torch.utils.data.Dataset):
    """An image at a time, as torchvision's transforms do it: pad, crop, flip, to float, normalise."""

    def __init__(self) -> None:
        self.images = torch.from_numpy(images().transpose(0, 3, 1, 2).copy())
        self.mean, self.std = (torch.from_numpy(values)[:, None, None] for values in (MEAN, STD))

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image = torch.nn.functional.pad(self.images[row], (PAD,) * 4)
        top, left = torch.randint(2 * PAD + 1, (2,)).tolist()
        image = image[:, top : top + SIDE, left : left + SIDE]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image.float() - self.mean) / self.std, row


class Batches(Items):
    """A batch at a time, from a padded copy of the data whose making is not counted."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.images = torch.from_numpy(padded(images()).transpose(0, 3, 1, 2).copy())
        self.windows = self.images.unfold(2, SIDE, 1).unfold(3, SIDE, 1)
        self.way = way

    def __getitem__(self, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.as_tensor(rows)
        top, left = torch.randint(2 * PAD + 1, (2, len(rows)))
        mirror = torch.rand(len(rows)) < 0.5
        if self.way == "loop":
            crops = torch.empty((len(rows), 3, SIDE, SIDE), dtype=torch.uint8)
            drawn = zip(rows.tolist(), top.tolist(), left.tolist(), mirror.tolist(), strict=True)
            for i, (row, y, x, backwards) in enumerate(drawn):
                crop = self.images[row, :, y : y + SIDE, x : x + SIDE]
                crops[i] = crop.flip(-1) if backwards else crop
        else:
            crops = self.windows[rows, :, top, left]
            crops = torch.where(mirror[:, None, None, None], crops.flip(-1), crops)
        return crops.float().sub_(self.mean).div_(self.std), rows


class InTorch:
    """A DataLoader that never ends."""

    def __init__(self, case: dict[str, Any]) -> None:
        torch.set_num_threads(2)
        options: dict[str, Any] = {"num_workers": case["workers"], "persistent_workers": case["workers"] > 0}
        if case["way"] == "item":
            options |= {"dataset": Items(), "batch_size": case["batch"], "shuffle": True, "drop_last": True}
        else:
            rows = torch.utils.data.BatchSampler(
                torch.utils.data.RandomSampler(range(COUNT)), batch_size=case["batch"], drop_last=True
            )
            options |= {"dataset": Batches(case["way"]), "batch_size": None, "sampler": rows}
        self.loader = torch.utils.data.DataLoader(**options)
        self.batches = self._batches()
        self.versions = {"torch": torch.__version__}

    def _batches(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def block(self) -> tuple[float, float]:
        """(seconds, images)."""
        for _ in range(AHEAD):
            next(self.batches)
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < BLOCK:
            done += len(next(self.batches)[0])
        return time.perf_counter() - begun, done

    def check(self) -> list[float]:
        """See `shares`."""
        found, rows = next(self.batches)
        return shares(images(), np.asarray(rows[:32]), found[:32].permute(0, 2, 3, 1).numpy())


def prepare(case: dict[str, Any]) -> InTorch:
    """The contender."""
    return InTorch(case)
