"""A TCP port at which the processes of a test can meet."""

import os
import socket


def free_port() -> int:
    """A port where nobody listens, and that the system gives to no connection before the processes meet there."""
    first = os.getpid() * 10 % 12_000  # tests that run at the same time look at different places
    for number in range(12_000):
        port = 20_000 + (first + number) % 12_000  # the system's own begin at 32768
        with socket.socket() as meeting:
            try:
                meeting.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no port is free")
