"""What MQTT can carry, checked before a connection sees it.

A broker ends the connection of a client that sends anything else. Kept for the next connection,
that would end it as well, and nothing behind it would ever be sent.
"""

from __future__ import annotations

__all__ = ["check_address", "check_filter", "check_message"]

# MQTT 3.1.1, sections 1.5.3 and 2.2.3: a text's length has 16 bits, that of a packet 28.
_MAX_TOPIC_BYTES = 65_535
_MAX_PAYLOAD_BYTES = 2**28 - 1 - _MAX_TOPIC_BYTES - 4


def check_address(broker: str, port: int) -> None:
    """Raise `ValueError` unless a broker can be at this host and port."""
    if not broker or not 0 < port < 65_536:
        raise ValueError(f"{broker!r}, port {port!r}, is no address of a broker")


def check_message(topic: str, payload: str, qos: int) -> None:
    """Raise `ValueError`, saying why, for what cannot be published."""
    _check_text(topic)
    if "+" in topic or "#" in topic:
        raise ValueError(f"the topic {topic!r:.100} has a wildcard")
    if not isinstance(payload, str):
        raise ValueError(f"the payload {payload!r:.100} is not text")
    if len(payload.encode()) > _MAX_PAYLOAD_BYTES:
        raise ValueError(f"the payload is over {_MAX_PAYLOAD_BYTES} bytes")
    if qos not in (0, 1, 2):
        raise ValueError(f"the quality of service {qos!r} is not 0, 1 or 2")


def check_filter(topic_filter: str) -> None:
    """Raise `ValueError`, saying why, for what cannot be subscribed to."""
    _check_text(topic_filter)
    *above, last = topic_filter.split("/")
    for level in above:
        if level != "+" and ("+" in level or "#" in level):
            raise ValueError(f"the filter {topic_filter!r:.100} has a wildcard within a level")
    if last not in ("+", "#") and ("+" in last or "#" in last):
        raise ValueError(f"the filter {topic_filter!r:.100} has a wildcard within a level")


def _check_text(topic: str) -> None:
    if not isinstance(topic, str) or not topic:
        raise ValueError(f"the topic {topic!r:.100} is not text of at least one character")
    if not topic.isprintable():  # brokers refuse control characters and lone surrogates
        raise ValueError(f"the topic {topic!r:.100} has a character that is not printable")
    if len(topic.encode()) > _MAX_TOPIC_BYTES:
        raise ValueError(f"the topic {topic!r:.100} is over {_MAX_TOPIC_BYTES} bytes")
