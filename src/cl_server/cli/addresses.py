"""The addresses of a server on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from cl_server_shared.config import Config

__all__ = ["LocalAddresses", "local_addresses"]


@dataclass(frozen=True)
class LocalAddresses:
    """Where the services are, as a client on this machine asks for them.

    Attributes:
        auth_url: The auth service's.
        store_url: The store's.
        mqtt_url: The broker's; empty without one.
    """

    auth_url: str
    store_url: str
    mqtt_url: str

    @property
    def compute_url(self) -> str:
        """The store's compute address."""
        return f"{self.store_url}/compute"


def local_addresses() -> LocalAddresses:
    """Return the addresses that the settings lead to.

    Raises:
        InvalidSetting: A variable is malformed.
    """
    host = Config.CL_SERVER_HOST
    if host in ("0.0.0.0", "::", ""):  # what one listens on, not what one connects to
        host = "127.0.0.1"
    elif ":" in host:
        host = f"[{host}]"
    has_broker = Config.BROADCAST_TYPE == "mqtt"
    return LocalAddresses(
        auth_url=f"http://{host}:{Config.AUTH_PORT}",
        store_url=f"http://{host}:{Config.STORE_PORT}",
        mqtt_url=f"mqtt://{Config.MQTT_BROKER}:{Config.MQTT_PORT}" if has_broker else "",
    )
