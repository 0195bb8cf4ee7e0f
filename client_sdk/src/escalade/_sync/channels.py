# Generated from ../_async/channels.py by client_sdk/unasync.py; change that, then `make gen`.
"""The connections of a client and of its views."""

import threading
from collections.abc import Callable

import grpc

from escalade._channel import Dial
from escalade._errors import UsageError
from escalade._lanes import Lane


class Channels:
    """Opened when needed. Whoever takes one gives it back."""

    def __init__(self, dial: Dial) -> None:
        self.dial = dial
        self.work = Lane()
        self.waits = Lane()
        self.operations = Lane(connections_max=1)
        self._lock = threading.Lock()
        self._open: dict[tuple[Lane, int], grpc.Channel] = {}
        self._closed = False

    def take(self, lane: Lane) -> tuple[grpc.Channel, Callable[[], None]]:
        """A channel for one call, and what to call when that is over, once.

        Raises:
            UsageError: The client is closed.
        """
        with self._lock:
            if self._closed:
                raise UsageError("the client is closed")
            number = lane.take()
            channel = self._open.get((lane, number))
            if channel is None:
                channel = self._open[lane, number] = self._made()

        def give_back() -> None:
            with self._lock:
                lane.give_back(number)

        return channel, give_back

    def close(self) -> None:
        """Cancel what still runs, and close every connection."""
        with self._lock:
            self._closed = True
            channels = list(self._open.values())
            self._open.clear()
        for channel in channels:
            channel.close()

    def _made(self) -> grpc.Channel:
        way = self.dial
        if way.credentials is None:
            return grpc.insecure_channel(way.target, options=way.options)
        return grpc.secure_channel(way.target, way.credentials, options=way.options)
