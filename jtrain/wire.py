"""What the hub and the processes that speak to it share: their lines, their addresses, and what is known of each."""

import json
import socket
import time
from typing import Any

from jtrain.errors import HeldError

RETRY = 0.2  # seconds between two attempts to reach process 0
BEAT = 1.0  # seconds between two signs of life
FIRST, TRAIN = "first", "train"  # who is given an answer: all, the value of process 0; the exchange that begins a run


class Member:
    """A connection, and who is at its other end once it has said so."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.process: int | None = None
        self.name = "somebody"  # 'process 1 (pid 77 on node3)'
        self.place = ("", "")  # host, and the accelerators that it may see
        self.heard = self.moved = time.monotonic()
        self.phase, self.count = "starting", 0
        self.gone = False  # it said goodbye
        self.refused = False
        self.incoming = bytearray()
        self.outgoing = bytearray()

    def where(self, now: float) -> str:
        """Words: '"update 57", for 12 s'."""
        return f'it was at "{self.phase}", for {now - self.moved:.0f} s'


def line_of(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


def listen(address: tuple[str, int]) -> socket.socket:
    """A socket that other processes reach at this address of this machine; raises OSError."""
    host, port = address
    if is_loopback(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    # At all addresses: what this machine takes its own name for need not be what the others reach it by.
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach the address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def reach(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to process 0, which may start later than this one."""
    until, reason = time.monotonic() + seconds, ""
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=max(RETRY, until - time.monotonic()))
            if connection.getsockname() == connection.getpeername():  # a port of clients can meet itself
                connection.close()
                raise ConnectionRefusedError(0, "nobody listens")
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
        if time.monotonic() + RETRY > until:
            raise HeldError(
                f"process 0 cannot be reached at {host}:{port} within {seconds:g} s: {reason}; look at its log, its "
                "address, and mesh.start_timeout"
            )
        time.sleep(RETRY)
