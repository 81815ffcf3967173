"""Where a server listens."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

from cifar_hapi.errors import CifarHapiError, RecipeError


@dataclass(frozen=True)
class Address:
    """host: as it was asked for. family, place: what the system makes of it."""

    host: str
    family: socket.AddressFamily
    place: tuple[str, int]

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        """Raises RecipeError for a host that is none of this machine's."""
        try:
            family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        except (OSError, UnicodeError):
            raise RecipeError(f"host {host!r}: neither a name nor an address that is known here") from None
        return cls(host, family, (str(place[0]), int(place[1])))

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self._ip.is_loopback

    @property
    def any(self) -> bool:
        """Whether it is every address of this machine, as 0.0.0.0 is."""
        return self._ip.is_unspecified

    def bound(self) -> socket.socket:
        """A socket that listens there. Raises CifarHapiError where the port is taken."""
        # Told its protocol, or asyncio would leave Nagle's algorithm on: 40 ms for each answer on a kept connection.
        found = socket.socket(self.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":  # a server that has just ended does not keep the port; elsewhere two could have it
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(self.place)
            found.listen()
        except OSError as error:
            found.close()
            raise CifarHapiError(
                f"{self.host} port {self.place[1]}: {error.strerror}; take another with --port, 0 for any that is free"
            ) from None
        return found

    def url(self, port: int) -> str:
        """The page's, at the port that it has got."""
        host = "localhost" if self.any else self.host
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    @property
    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(self.place[0].partition("%")[0])
