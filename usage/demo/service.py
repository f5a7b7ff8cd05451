"""The processes of the demo: sandbox, worker with beat, web server. All stop together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings

STOP_SECONDS = 10


class ServiceFailed(RuntimeError):
    """A process of the demo ended by itself.

    The message says which, and shows the end of its log.
    """


class Services:
    """Starts processes, watches them, and stops them in the end.

    Each writes to a log of its own in the var folder.
    """

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str]) -> None:
        with self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *command],
                cwd=settings.BASE_DIR,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ,
                # A group of its own: a worker's processes end with it.
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return Path(settings.VAR_DIR) / f"{name}.log"

    def check(self) -> None:
        """Raises ServiceFailed when one has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                tail = self.log(name).read_text(errors="replace")[-2000:]
                raise ServiceFailed(
                    f"The {name} ended (status {process.returncode}). The end of"
                    f" {self.log(name)}:\n{tail}"
                )

    def wait(self) -> None:
        """Until one ends by itself (raises ServiceFailed) or Ctrl-C."""
        while True:
            self.check()
            time.sleep(0.5)

    def stop(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        self._running.clear()
