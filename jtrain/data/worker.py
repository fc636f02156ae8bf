"""A loader process: reads examples for the process that started it, and ends with it. It never imports JAX.

    python -m jtrain.data.worker FD

FD is one end of a pair of sockets. Requests and answers are:

    ("examples", key, pickled examples) -> ("ready", None) or ("refused", why)
    ("fetch", key, rows)                -> ("fetched", (inputs, targets)) or ("failed", the exception)
"""

import pickle
import socket
import struct
import sys
import traceback
from typing import Any

PROTOCOL = 5  # the first that leaves arrays out of the pickle, so that they need not be copied into it


def send(connection: socket.socket, value: Any) -> None:
    """Sends a value that can be pickled: how many parts, their sizes in bytes, the pickle, the arrays it leaves out.

    Raises:
      OSError: nobody listens at the other end. Whatever pickle raises, before anything is sent.
    """
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, PROTOCOL, buffer_callback=arrays.append)
    parts = [memoryview(pickled), *(array.raw() for array in arrays)]
    connection.sendall(struct.pack(f"<Q{len(parts)}Q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        connection.sendall(part)


def receive(connection: socket.socket) -> Any:
    """Waits for a value from `send`, of which every array has memory of its own; raises EOFError at the end."""
    (count,) = struct.unpack("<Q", _exactly(connection, 8))
    sizes = struct.unpack(f"<{count}Q", _exactly(connection, 8 * count))
    pickled, *arrays = [_exactly(connection, size) for size in sizes]
    return pickle.loads(pickled, buffers=arrays)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    rest = memoryview(found)
    while rest:
        got = connection.recv_into(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return found


def serve(connection: socket.socket) -> None:
    """Answers requests until the other end is closed, by `Workers.close` or by the death of its process."""
    held: dict[int, Any] = {}
    while True:
        try:
            kind, key, value = receive(connection)
            if kind == "examples":
                send(connection, _take(held, key, value))
            else:
                send(connection, _fetch(held[key], value))
        except (EOFError, ConnectionError):
            return


def _take(held: dict[int, Any], key: int, pickled: bytes) -> tuple[str, str | None]:
    try:
        held[key] = pickle.loads(pickled)
    except Exception as error:  # a class of a script or a notebook, which is not importable here, raises many kinds
        return "refused", f"{type(error).__name__}: {error}"
    return "ready", None


def _fetch(examples: Any, rows: Any) -> tuple[str, Any]:
    try:
        return "fetched", examples.fetch(rows)
    except Exception as error:  # whatever it is, it is raised again in the other process
        error.add_note(f"in a loader process:\n{''.join(traceback.format_exception(error))}")
        try:
            pickle.loads(pickle.dumps(error, PROTOCOL))
        except Exception:  # of a user's class, with an __init__ or a field that pickle cannot follow: its words
            plain = RuntimeError(f"{type(error).__name__}: {error}")
            plain.__notes__ = error.__notes__
            return "failed", plain
        return "failed", error


def main() -> None:
    """Serves the socket whose number is the first argument."""
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)


if __name__ == "__main__":
    main()
