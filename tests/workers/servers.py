"""Servers that behave badly, on this machine, for as long as the block lasts."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PIECE = b"x" * 65536


@contextmanager
def listening(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """Each client gets ``serve``, which returns once the event is set. Yields the port."""
    stopped = threading.Event()
    door = socket.create_server(("127.0.0.1", 0))

    def handle(client: socket.socket) -> None:
        with client:
            try:
                serve(client, stopped)
            except OSError:
                return  # the client has hung up, as it should

    def accept() -> None:
        while not stopped.is_set():
            try:
                client, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=[client], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield door.getsockname()[1]
    finally:
        stopped.set()
        # Wakes up accept(), which close() alone does not.
        door.shutdown(socket.SHUT_RDWR)
        door.close()


def hangs(client: socket.socket, stopped: threading.Event) -> None:
    """Takes the call, and says nothing."""
    stopped.wait()


def trickles(begins: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Says something, and then a byte now and then, for ever."""

    def serve(client: socket.socket, stopped: threading.Event) -> None:
        client.sendall(begins)
        while not stopped.wait(0.1):
            client.sendall(b"x")

    return serve


def floods(begins: bytes, sent: list[int]) -> Callable[[socket.socket, threading.Event], None]:
    """Says something, and then 300 MB; ``sent`` says how much of it was taken."""

    def serve(client: socket.socket, stopped: threading.Event) -> None:
        client.sendall(begins + b"Content-Length: 300000000\r\n\r\n")
        while sum(sent) < 300_000_000 and not stopped.is_set():
            client.sendall(PIECE)
            sent.append(len(PIECE))

    return serve
