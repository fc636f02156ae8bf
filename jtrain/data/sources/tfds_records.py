"""One split of a prepared tensorflow-datasets set, read record by record and decoded with Pillow."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.data.examples import BrokenRecord, Wanted, gather
from jtrain.data.sources.tfds_features import Input, Target, choose
from jtrain.errors import ConfigError, DataError
from jtrain.table import did_you_mean


class Records:
    """Examples decoded when they are fetched.

    Args:
      source: gives a list of {feature: value} for a list of record numbers.
      files: (name, examples) of each file of the split, in order.
      split: its name, for messages.
      input: how a record's input is read.
      target: how its target is.
    """

    def __init__(self, source: Any, *, files: list[tuple[str, int]], split: str, input: Input, target: Target) -> None:
        self._source, self._files, self._split = source, files, split
        self._input, self.target = input, target
        self._decoded: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._source)

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and targets once they are decoded."""
        held = (self._input, self.target)
        return len(self) * sum(int(np.prod(one.shape, dtype=np.int64)) * one.dtype.itemsize for one in held)

    def fetch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples numbered `rows`; raises BrokenRecord naming file and record when one cannot be read."""
        if self._decoded is not None:
            return self._decoded[0][rows], self._decoded[1][rows]
        numbers = [int(row) for row in rows]
        inputs = np.empty((len(numbers), *self._input.shape), self._input.dtype)
        targets = np.empty((len(numbers), *self.target.shape), self.target.dtype)
        for i, (number, record) in enumerate(zip(numbers, self._read(numbers), strict=True)):
            with self._told(number):
                inputs[i], targets[i] = self._input.read(record), self.target.read(record)
        return inputs, targets

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Targets alone, without a look at the inputs; raises BrokenRecord as `fetch` does."""
        if self._decoded is not None:
            return self._decoded[1][rows]
        numbers = [int(row) for row in rows]
        targets = np.empty((len(numbers), *self.target.shape), self.target.dtype)
        for i, (number, record) in enumerate(zip(numbers, self._read(numbers), strict=True)):
            with self._told(number):
                targets[i] = self.target.read(record)
        return targets

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All examples, decoded once and then kept."""
        if self._decoded is None:
            self._decoded = gather(self, np.arange(len(self)))
        return self._decoded

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which decodes what it needs."""
        return self.__dict__ | {"_decoded": None}

    def _read(self, numbers: list[int]) -> list[dict[str, Any]]:
        try:
            return self._source.__getitems__(numbers)
        except MemoryError:
            raise
        except Exception:  # the readers raise many kinds, all of them a damaged file; find the record
            return [self._read_one(number) for number in numbers]

    def _read_one(self, number: int) -> dict[str, Any]:
        try:
            return self._source.__getitems__([number])[0]
        except MemoryError:
            raise
        except Exception as error:
            raise self._damaged(number, error) from error

    @contextlib.contextmanager
    def _told(self, number: int) -> Iterator[None]:
        """Makes of what is raised inside, where a record holds something else than promised, a BrokenRecord."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise self._damaged(number, error) from error

    def _damaged(self, number: int, error: Exception) -> BrokenRecord:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        ends = np.cumsum([examples for _, examples in self._files])
        name = self._files[int(np.searchsorted(ends, number, side="right"))][0]
        return BrokenRecord(
            f"data.tfds: split {self._split!r}: record {number} cannot be read, {name} is damaged; "
            f"copy or prepare it anew ({reason})"
        )


def open_records(
    folder: Path, option: str, split: str, wanted: Wanted, keys: tuple[str, str], image_size: int
) -> Records:
    """Opens one split of the prepared data set in `folder`.

    Args:
      folder: of one version.
      option: of data.tfds that names the split, for messages.
      split: a split, perhaps sliced: "train[:90%]".
      wanted: what the targets must be.
      keys: features of (inputs, targets); "" is the data set's own choice.
      image_size: to resize images to, or 0.

    Raises:
      ConfigError: no such split or feature, or it does not suit. DataError: a file is missing or damaged.
    """
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(str(folder))
    except Exception as error:  # whatever it raises, the description in the folder is not usable
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"data.tfds: {folder} is damaged; copy or prepare it anew ({reason})") from error
    info = builder.info
    library = tensorflow_datasets
    chosen, target = choose(library, info.features, info.supervised_keys, wanted, keys, image_size)
    decoders = {chosen.key: library.decode.SkipDecoding()} if chosen.encoded else None
    try:
        source = builder.as_data_source(split=split, decoders=decoders)
        parts = [(Path(part.filename), part.examples_in_shard) for part in info.splits[split].file_instructions]
    except NotImplementedError as error:
        raise DataError(f"data.tfds: {folder} is not stored as array_record; prepare it anew as such") from error
    except (ValueError, KeyError) as error:
        raise _split_error(option, split, list(info.splits), error) from error
    except (OSError, RuntimeError) as error:
        raise DataError(f"data.tfds: a file of {folder} is missing or damaged; prepare it anew ({error})") from error
    for file, _ in parts:
        if not file.is_file():
            raise DataError(f"data.tfds: {file} is missing; copy or prepare it anew")
    files = [(file.name, examples) for file, examples in parts]
    return Records(source, files=files, split=split, input=chosen, target=target)


def _split_error(option: str, split: str, known: list[str], error: Exception) -> ConfigError:
    bare = split.split("[")[0].split("+")[0].strip()
    if bare not in known:
        exist = f"the data set has {', '.join(known)}"
        return ConfigError(f"data.tfds.{option}: no such split {bare!r}{did_you_mean(bare, known)} ({exist})")
    return ConfigError(
        f"data.tfds.{option}: cannot read {split!r} ({str(error).splitlines()[0]}); write it like train[:90%]"
    )
