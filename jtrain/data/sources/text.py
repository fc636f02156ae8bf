"""Text as tokens, characters or bytes, in windows that a model continues token by token."""

import glob
import hashlib
import platform
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, AnyStr, Literal

import numpy as np

from jtrain.data.examples import DataSet, Wanted
from jtrain.errors import ConfigError, DataError
from jtrain.table import Fraction, Natural, Range, Size

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # stands for every character that is too rare for the vocabulary
DEFAULT_MOST = 2_000_000  # characters of the default corpus
Unit = Literal["characters", "bytes"]
Vocabulary = Annotated[int, Range(2, 0x110000)]

# Not prose of programmers: tests, tables, generated modules, other people's packages.
_LEFT_OUT = frozenset(
    {"__pycache__", "encodings", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests", "turtledemo"}
)
_CHUNK = 1 << 22  # characters counted at a time: as code points they take 4 bytes each


def text(
    wanted: Wanted,
    *,
    path: str = "",
    unit: Unit = "characters",
    length: Size = 128,
    vocabulary: Vocabulary = 256,
    most: Natural = 0,
    test: Fraction = 0.05,
) -> DataSet:
    """Windows of text: inputs int32 [length], targets the same one token later, so that each token is told once.

    Windows follow one another without overlap; less than a window at the end of a split is left out. Files are joined
    in sorted order by a line end. As characters, every line end becomes "\\n"; as bytes, files stay what they are.

    Args:
      wanted: "tokens" or "any"; the seed is not used.
      path: of a UTF-8 file, a folder (all its *.txt, also in folders inside; hidden ones are passed over), or a pattern
        such as notes/**/*.md; `~` is the home folder. "" is the Python standard library's own source, in a fixed order
        of its files that looks random; it differs between versions of Python.
      unit: what a token is.
      length: tokens in a window.
      vocabulary: most tokens that there may be. A text with more characters keeps the most frequent, and all others
        are one token, "�". Without effect on bytes: they are 256.
      most: units taken, from the start of the text; 0 is all (but 2,000,000 of the default).
      test: share of the text at its end that is the test split; 0 is no test split.

    Raises:
      ConfigError: another task, or windows longer than a split. DataError: nothing there, or not UTF-8.
    """
    if wanted.targets not in ("tokens", "any"):
        raise ConfigError('data.name: "text" gives tokens; set task.name="language_modelling"')
    if path:
        name, note, files = Path(path).name or path, "", _files(path)
    else:
        version = platform.python_version()
        name, files = "python sources", _standard_library()
        note = f"text is the standard library of Python {version} itself; other versions differ"
        most = most or DEFAULT_MOST
    if unit == "bytes":
        tokens = np.frombuffer(_joined(_pieces(files, bytes, skip=not path), b"\n", most), np.uint8)
        names = tuple(_byte_name(byte) for byte in range(256))
    else:
        tokens, names, rare = _characters(_joined(_pieces(files, _lines, skip=not path), "\n", most), vocabulary)
        note = "; ".join(line for line in (note, rare) if line)
    if not len(tokens):
        raise DataError(f"data.text.path: {path} holds no text, only empty files")
    cut = len(tokens) - round(test * len(tokens))
    parts = {"train": tokens[:cut], "test": tokens[cut:]} if test else {"train": tokens}
    for split, part in parts.items():
        if len(part) <= length:
            way_out = ", a smaller data.text.length, or data.text.test=0" if split == "test" else ", or a smaller one"
            raise ConfigError(
                f"data.text.length: {length} needs {length + 1:,} {unit} of text, but the {split} part of {name} has "
                f"{len(part):,}; give more text{way_out}"
            )
    splits = {split: Windows(part, length) for split, part in parts.items()}
    return DataSet(name, splits["train"], None, splits.get("test"), len(names), "tokens", names, note)


class Windows:
    """Examples cut from one row of tokens: (tokens i·length … + length − 1, the same one later), for i from 0.

    Args:
      tokens: [n] whole numbers, of a small type; n above `length`.
      length: tokens in a window.
    """

    decodes = False  # windows are cut in less time than it takes to send them from a loader process

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        self._tokens, self._length = tokens, length

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._length

    def fetch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets), both int32 [b, length], of the windows numbered `rows` [b]."""
        places = np.asarray(rows, np.int64)[:, None] * self._length + np.arange(self._length)
        return self._tokens[places].astype(np.int32), self._tokens[places + 1].astype(np.int32)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Targets alone."""
        return self.fetch(rows)[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and targets as arrays: int32."""
        return len(self) * self._length * 4 * 2

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All windows, made anew at each call."""
        used = len(self) * self._length
        shape = (len(self), self._length)
        inputs, targets = self._tokens[:used], self._tokens[1 : used + 1]
        return inputs.reshape(shape).astype(np.int32), targets.reshape(shape).astype(np.int32)


def _files(path: str) -> list[Path]:
    """The files of a path, a folder or a pattern, sorted."""
    where = Path(path).expanduser()
    if where.is_file():
        return [where]
    if where.is_dir():
        found = [f for f in where.rglob("*.txt") if not any(p.startswith(".") for p in f.relative_to(where).parts)]
        hint = f"no *.txt in the folder {where}; for other files set a pattern, such as {where}/**/*.md"
    elif any(character in path for character in "*?["):
        found = [Path(file) for file in glob.glob(str(where), recursive=True)]
        hint = f"no file fits the pattern {where}"
    else:
        raise DataError(f"data.text.path: no file or folder {where}")
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise DataError(f"data.text.path: {hint}")
    return files


def _standard_library() -> list[Path]:
    """Python's own source files, in the order of a hash of their names: one that no one chose, and that stays."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {}
    for module in sys.stdlib_module_names - _LEFT_OUT:  # others may have put files there, and whole folders
        for file in (root / f"{module}.py", *(root / module).rglob("*.py")):
            name = file.relative_to(root)
            if file.is_file() and _LEFT_OUT.isdisjoint(name.parts):
                found[hashlib.blake2b(name.as_posix().encode(), digest_size=8).digest()] = file
    if not found:
        raise DataError(f"data.text.path: this Python comes without its sources in {root}; set a file or a folder")
    return [found[key] for key in sorted(found)]


def _pieces(files: list[Path], decoded: Callable[[bytes], AnyStr], skip: bool) -> Iterator[AnyStr]:
    """What each file holds; `skip` leaves out those that are not UTF-8."""
    for file in files:
        try:
            yield decoded(file.read_bytes())
        except UnicodeDecodeError as error:
            if not skip:
                place = f"byte {error.start} (0x{error.object[error.start]:02x})"
                raise DataError(
                    f'data.text.path: {file} is not UTF-8 at {place}; save it as UTF-8, or set data.text.unit="bytes"'
                ) from error
        except OSError as error:
            raise DataError(f"data.text.path: {file} cannot be read ({error.strerror or error})") from error


def _lines(content: bytes) -> str:
    decoded = content.decode().removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # the mark that Windows begins files with
    return decoded.replace("\r\n", "\n").replace("\r", "\n")


def _joined(pieces: Iterator[AnyStr], between: AnyStr, most: int) -> AnyStr:
    """The first `most` units of all pieces; 0 is all."""
    taken: list[AnyStr] = []
    total = 0
    for piece in pieces:
        taken.append(piece)
        total += len(piece) + 1
        if most and total > most:
            break
    joined = between.join(taken)
    return joined[:most] if most else joined


def _characters(corpus: str, vocabulary: int) -> tuple[np.ndarray, tuple[str, ...], str]:
    """(token of each character, the character of each token, a note where some share one token)."""
    counts = np.zeros(0x110000, np.int64)
    for codes in _code_points(corpus):
        counts += np.bincount(codes, minlength=len(counts))
    kept, note = np.flatnonzero(counts), ""
    if len(kept) > vocabulary:
        counts[ord(UNKNOWN)] = 0  # it may be in the text itself; it is added below
        by_count = np.argsort(-counts[kept], kind="stable")  # equally frequent ones stay sorted
        rare = kept[by_count[vocabulary - 1 :]]
        kept = np.union1d(kept[by_count[: vocabulary - 1]], ord(UNKNOWN))
        share = 1 - counts[kept].sum() / len(corpus)
        note = f'the {len(rare):,} rarest characters, {share:.2%} of the text, are one token "{UNKNOWN}"'
    kind = np.min_scalar_type(max(len(kept) - 1, 0))
    tokens_of = np.full(len(counts), np.searchsorted(kept, ord(UNKNOWN)), np.int64).astype(kind)
    tokens_of[kept] = np.arange(len(kept))
    tokens = np.concatenate([tokens_of[:0], *(tokens_of[codes] for codes in _code_points(corpus))])
    return tokens, tuple(chr(code) for code in kept), note


def _code_points(corpus: str) -> Iterator[np.ndarray]:
    for start in range(0, len(corpus), _CHUNK):
        yield np.frombuffer(corpus[start : start + _CHUNK].encode("utf-32-le"), np.dtype("<u4"))


def _byte_name(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"
