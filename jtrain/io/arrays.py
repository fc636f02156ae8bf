"""Arrays by name in a folder that orbax writes and reads, on one process alone, and without a word on the screen."""

import asyncio
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtrain.io.contents import Damaged


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Makes a folder of arrays by name, none of which may be empty; without arrays there is none."""
    if arrays:
        with _checkpointer() as checkpointer:
            checkpointer.save(folder.absolute(), args=orbax().args.PyTreeSave(dict(arrays)))


def read_arrays(folder: Path, expected: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, np.ndarray]:
    """The arrays of a folder that `write_arrays` made.

    Args:
      folder: that it made.
      expected: (shape, dtype) of each array.

    Raises:
      Damaged: it holds other ones; nothing of their size has been read then.
    """
    name = folder.name
    try:
        with _checkpointer() as checkpointer:
            _compare(name, checkpointer.metadata(folder.absolute()).item_metadata.tree, expected)
            loaded = checkpointer.restore(folder.absolute())
            return {key: np.asarray(loaded[key]) for key in expected}
    except Damaged:
        raise
    except Exception as error:  # whatever orbax meets in files that passed their checksums
        raise Damaged(f"{name}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """One line on a failure to write or read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error) or repr(error)
    full = "No space left on device"
    return full if full in text else text.splitlines()[0][:200]


@functools.cache
def orbax() -> Any:
    """orbax, imported here because it costs 0.3 s that a run without checkpoints saves; and made quiet."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_is_not_chatter)
    logging.getLogger("asyncio").addFilter(_is_not_chatter)
    sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)
    return ocp


def _compare(name: str, found: Any, expected: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
    if type(found) is not dict or set(found) != set(expected):
        differ = sorted(set(found if type(found) is dict else ()) ^ set(expected))
        raise Damaged(f"{name}: other arrays than were saved: {', '.join(differ[:3])}")
    for key, (shape, dtype) in expected.items():
        one = found[key]
        if (tuple(one.shape), np.dtype(one.dtype)) != (shape, dtype):
            raise Damaged(f"{key}: shape or dtype differs")
        # A piece of the file is read as a whole, however little of it is in the array.
        if any(piece > length for piece, length in zip(one.storage.chunk_shape, shape, strict=True)):
            raise Damaged(f"{key}: is cut into pieces larger than itself")


def _checkpointer() -> Any:
    """orbax on this process alone: it must never wait for the others, who may be at another step, or dead.

    orbax's newer interface (`v1.save`) waits for all processes whatever it is told (0.12.8).
    """
    import jax

    ocp, process = orbax(), jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
    )
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, _array_handler()()))
    # Compressing makes weights 8 % smaller, for most of the processor time of a save.
    handler = ocp.PyTreeCheckpointHandler(
        multiprocessing_options=options, type_handler_registry=registry, use_compression=False
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


@functools.cache
def _array_handler() -> Any:
    """orbax's handler of NumPy arrays, which writes on process 0 alone, as one that writes wherever it is called."""
    import jax
    import tensorstore
    from orbax.checkpoint import future
    from orbax.checkpoint import type_handlers as types

    class EveryProcess(types.NumpyHandler):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            async def one(value: np.ndarray, info: Any, arg: Any) -> None:
                await info.await_path_creation()
                spec = types.get_json_tspec_write(
                    info, info.is_ocdbt_checkpoint, value.shape, value.shape, value.dtype, arg=arg,
                    process_index=jax.process_index(),
                )  # fmt: skip
                store = await tensorstore.open(tensorstore.Spec(spec), create=True, open=True, context=info.ts_context)
                await store.write(value, can_reference_source_data_indefinitely=True)

            args = args or [types.SaveArgs()] * len(values)
            done = await asyncio.gather(*map(one, values, infos, args), return_exceptions=True)
            for error in done:  # only now: none of them is left behind without somebody who waits for it
                if isinstance(error, BaseException):
                    raise error
            return [future.NoopFuture()]

    return EveryProcess


def _is_not_chatter(record: logging.LogRecord) -> bool:
    """Whether a log record is not orbax telling, with a traceback, of an error that the save raises to us as well."""
    if record.name == "asyncio":
        return "never retrieved" not in str(record.msg) or not _is_of_orbax(record.exc_info)
    return f"{os.sep}orbax{os.sep}" not in record.pathname or (record.levelno >= logging.ERROR and not record.exc_info)


def _is_of_orbax(exc_info: Any) -> bool:
    frames = traceback.walk_tb(exc_info[2]) if exc_info else ()
    return any(f"{os.sep}orbax{os.sep}" in frame.f_code.co_filename for frame, _ in frames)


def _unraisable(otherwise: Callable[[Any], Any], found: Any) -> None:
    # tensorstore finishes writes of a failed save after orbax has closed the loop that waited for them.
    if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
        otherwise(found)
