"""Runs one call in a process of its own, where it may hang or die without harm."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from uebench.components.errors import UserError
from uebench.components.plugin_file import PluginFile
from uebench.components.registry import registry
from uebench.executors.messages import Begun, death_message, silence_message
from uebench.executors.worker_pool import settle_process, start_process

Answer = TypeVar("Answer")


def _serve_calls(connection: Connection, files: Sequence[PluginFile]) -> None:
    """Answer the calls that come through a connection, until it closes or the parent dies."""
    settle_process(files)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        connection.send(Begun())
        connection.send(function(*arguments))


class IsolatedCaller:
    """A process for calls that may hang or die; it is replaced where one does."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._running: tuple[BaseProcess, Connection] | None = None

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return the value of a function that raises nothing.

        Raises `UserError` where the process dies, or gives no answer within the patience.
        """
        if self._running is None:
            context = multiprocessing.get_context("spawn")
            connection, child_connection = context.Pipe()
            process: BaseProcess = context.Process(
                target=_serve_calls, args=(child_connection, registry().files), daemon=True
            )
            start_process(process)
            child_connection.close()
            self._running = process, connection
        process, connection = self._running
        try:
            connection.send((function, arguments))
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
