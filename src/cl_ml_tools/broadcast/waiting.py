"""Messages that wait for a connection to the broker: in order, and a bounded number of them."""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from .topics import check_message

__all__ = ["Message", "WaitingMessages"]

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
