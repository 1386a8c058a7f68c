"""One call in a process of its own, which may hang or die without harm."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from uebench.components.errors import UserError
from uebench.components.plugin_file import PluginFile
from uebench.components.registry import registry
from uebench.executors.worker_pool import death_message, settle_process, silence_message, start_process

Answer = TypeVar("Answer")


def _answer(connection: Connection, files: Sequence[PluginFile]) -> None:
    """Send what calls give that come through a connection, until it closes or the parent dies."""
    settle_process(files)
    while True:
        try:
            ask, arguments = connection.recv()
        except EOFError:
            return
        connection.send("begun")
        connection.send(ask(*arguments))


class IsolatedCaller:
    """A process for calls that may hang or die, replaced where one does."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._running: tuple[BaseProcess, Connection] | None = None

    def ask(self, ask: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return what a call that raises nothing gives; raises `UserError` where it dies, or is out of patience."""
        if self._running is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            started = context.Process(target=_answer, args=(theirs, registry().files), daemon=True)
            start_process(started)
            theirs.close()
            self._running = started, ours
        process, connection = self._running
        try:
            connection.send((ask, arguments))
            connection.recv()
            if not connection.poll(self.patience):
                self.close()
                raise UserError(silence_message(self.patience))
            value: Answer = connection.recv()
        except (EOFError, OSError):
            process.join()
            self.close()
            raise UserError(death_message(process.exitcode)) from None
        return value

    def close(self) -> None:
        """End the process."""
        if self._running:
            self._running[0].kill()
            self._running[0].join()
            self._running = None
