"""What the hub and the processes that speak to it share: their lines, their addresses, and what is known of each."""

import json
import socket
import time
from typing import Any

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
