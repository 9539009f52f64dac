"""Whose address a request has, when some of those in front of the server are proxies of ours.

`X-Forwarded-For` is a list that every proxy on the way appends to, and that the client may begin with
anything. So it is read from its end, and only as far as the addresses in it are trusted: the first that is
not trusted was written down by one that is.
"""

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_COUNTED_IPV6_BITS = 64


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse addresses and networks, separated by commas or spaces; raise ValueError for anything else."""
    try:
        return tuple(ipaddress.ip_network(item) for item in text.replace(",", " ").split())
    except ValueError:
        raise ValueError("takes addresses or networks, such as 10.0.0.0/8,::1, separated by commas") from None


def client_address(peer: str | None, forwarded_for: str | None, trusted: tuple[Network, ...]) -> str | None:
    """Return the client's address: `peer`, who is connected, or whom trusted proxies say they speak for."""
    if not forwarded_for or not _is_trusted(_parsed(peer), trusted):
        return peer
    found = peer
    for item in reversed(forwarded_for.split(",")):
        address = _parsed(item)
        if address is None:
            return found
        found = str(address)
        if not _is_trusted(address, trusted):
            return found
    return found


def counted_network(address: str | None) -> str:
    """Return an address as it is counted: of IPv6 the network, since who has one address has all of it."""
    found = _parsed(address)
    if found is None:
        return "unknown"
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, _COUNTED_IPV6_BITS), strict=False))


def _is_trusted(address: _Address | None, trusted: tuple[Network, ...]) -> bool:
    return address is not None and any(address in network for network in trusted)


def _parsed(text: str | None) -> _Address | None:
    """Parse an address without its port or brackets; an IPv4 address written as IPv6 becomes an IPv4 one."""
    bare = (text or "").strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
