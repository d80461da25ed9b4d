"""Messages on their way to the broker: what waits to be sent, and what is not acknowledged yet."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from .topics import check_message

__all__ = ["Message", "UnacknowledgedMessages", "WaitingMessages"]

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Message:
    """A message that the broker has not acknowledged yet."""

    topic: str
    payload: str
    qos: int
    retain: bool
    acknowledged: Future[bool] = field(default_factory=Future)

    def can_be_sent(self) -> bool:
        """Return whether MQTT can carry it; why it cannot is logged."""
        try:
            check_message(self.topic, self.payload, self.qos)
        except ValueError as error:
            logger.error("a message for %r cannot be published: %s", self.topic, error)
            return False
        return True

    def settle(self, acknowledged: bool) -> None:
        """Say, once, what became of it."""
        if not self.acknowledged.done():
            self.acknowledged.set_result(acknowledged)


class WaitingMessages:
    """Messages in the order in which they were published. Its owner holds a lock around each call.

    Args:
        limit: How many may wait; one more drops the oldest.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: deque[Message] = deque()
        self._said_full = False

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def first(self) -> Message:
        """The oldest one."""
        return self._messages[0]

    def add(self, message: Message) -> None:
        """Let a message wait behind all others."""
        if len(self._messages) >= self._limit:
            self._messages.popleft().settle(False)
            if not self._said_full:
                self._said_full = True
                logger.warning(
                    "%d messages wait for the broker: the oldest are dropped", self._limit
                )
        self._messages.append(message)

    def remove_first(self) -> None:
        """Forget the oldest one, which was sent."""
        self._messages.popleft()
        self._said_full = self._said_full and bool(self._messages)

    def drop_all(self) -> None:
        """Forget all of them: none will ever be sent."""
        while self._messages:
            self._messages.popleft().settle(False)


class UnacknowledgedMessages:
    """Messages that were sent, by their MQTT message id. Its methods may be called from any thread.

    They take no lock but their own, so also a thread that holds others may call them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: dict[int, Message] = {}
        self._early: set[int] = set()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message_id: int, message: Message) -> None:
        """Note a message that was sent; its acknowledgement may have been quicker."""
        with self._lock:
            if message_id not in self._early:
                self._messages[message_id] = message
                return
            self._early.remove(message_id)
        message.settle(True)

    def acknowledge(self, message_id: int) -> None:
        """Settle the message that has this id, or will have it in a moment."""
        with self._lock:
            message = self._messages.pop(message_id, None)
            if message is None:
                self._early.add(message_id)
        if message is not None:
            message.settle(True)

    def futures(self) -> list[Future[bool]]:
        """Return what tells of each of them."""
        with self._lock:
            return [message.acknowledged for message in self._messages.values()]

    def take_all(self) -> list[Message]:
        """Return them in the order in which they were sent, and forget them."""
        with self._lock:
            messages = list(self._messages.values())
            self._messages.clear()
            self._early.clear()
        return messages
