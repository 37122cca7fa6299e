"""Which network addresses a bridge may connect to, checked after the name was resolved.

A name is resolved once for each connection, every address is checked, and the connection uses a checked address. So a
later change of the name has no effect (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressError(Exception):
    """No address may be used. away: the name cannot be resolved at this time. The text is half a sentence."""

    def __init__(self, reason: str, away: bool) -> None:
        super().__init__(reason)
        self.away = away


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks from texts such as "10.0.0.0/8" or "192.168.1.7". Raises ValueError naming the first wrong one."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:
            raise ValueError(f"{text[:60]!r} is no network; write for instance 192.168.1.0/24") from None
    return tuple(found)


def inner(address: Address) -> Address:
    """Return the IPv4 address inside an IPv6 address (mapped, NAT64, 6to4), else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.sixtofour:
            return address.sixtofour
    return address


def may_connect(address: Address, allowed: Sequence[Network]) -> bool:
    """Return whether an address may be used. allowed: it must be in one of these networks; empty: any public address,
    no private or loopback address.
    """
    real = inner(address)
    if allowed:
        return any(real.version == network.version and real in network for network in allowed)
    return real.is_global and not real.is_multicast and not real.is_reserved and not real.is_unspecified


def resolve(host: str, port: int, allowed: Sequence[Network]) -> list[str]:
    """Return the addresses of a host that may be used, in the resolver's order. Raises AddressError if there is
    none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        raise AddressError("the name of its host cannot be resolved", away=True) from None
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    usable = [text for text in addresses if may_connect(ipaddress.ip_address(text), allowed)]
    if not usable:
        raise AddressError("its address is not one of those in `allow`; add its network there", away=False)
    return usable
