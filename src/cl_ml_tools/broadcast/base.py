"""What a broadcaster does, and the one that does nothing."""

from __future__ import annotations

from typing import Callable, Protocol, runtime_checkable

__all__ = ["Broadcaster", "MessageCallback", "NoOpBroadcaster"]

MessageCallback = Callable[[str, str], None]  # takes a topic and a payload


@runtime_checkable
class Broadcaster(Protocol):
    """Tells everyone who is interested what happens. Publishing never raises, blocks or slows a job."""

    @property
    def connected(self) -> bool:
        """Whether a message would be handed over now."""
        ...

    def connect(self) -> None:
        """Start connecting in the background; it goes on trying until `disconnect`."""
        ...

    def disconnect(self) -> None:
        """Wait briefly for what is not yet acknowledged, then end the connection."""
        ...

    def publish_event(self, topic: str, payload: str, qos: int = 1) -> bool:
        """Hand one message over.

        Args:
            topic: Where to.
            payload: What; JSON text for events.
            qos: MQTT's quality of service: 0, 1 or 2.

        Returns:
            Whether it was handed over. False while there is no connection: then it waits for one,
            in order, and is not to be repeated.
        """
        ...

    def publish_retained(self, topic: str, payload: str, qos: int = 1) -> None:
        """Set a topic's retained message. The last one of each topic is sent at every (re)connect."""
        ...

    def clear_retained(self, topic: str) -> None:
        """Empty a topic's retained message, at the next connect where there is none now."""
        ...

    def set_will(self, topic: str, payload: str, qos: int = 1, retain: bool = True) -> None:
        """Set what the broker publishes when this process vanishes.

        Call it before connecting: a connection that is open is ended and opened again with it.
        """
        ...

    def subscribe(self, topic: str, callback: MessageCallback) -> None:
        """Call `callback(topic, payload)` for each message; renewed at every reconnect.

        Args:
            topic: A topic, or a filter with `+` and `#`.
            callback: Runs on the connection's own thread, so it must not block.
        """
        ...


class NoOpBroadcaster:
    """The broadcaster where there is no broker: every message counts as handed over."""

    @property
    def connected(self) -> bool:
        """Always False."""
        return False

    def connect(self) -> None:
        """Do nothing."""

    def disconnect(self) -> None:
        """Do nothing."""

    def publish_event(self, topic: str, payload: str, qos: int = 1) -> bool:
        """Return True: nobody listens, so there is nothing to keep for later."""
        return True

    def publish_retained(self, topic: str, payload: str, qos: int = 1) -> None:
        """Do nothing."""

    def clear_retained(self, topic: str) -> None:
        """Do nothing."""

    def set_will(self, topic: str, payload: str, qos: int = 1, retain: bool = True) -> None:
        """Do nothing."""

    def subscribe(self, topic: str, callback: MessageCallback) -> None:
        """Do nothing."""
