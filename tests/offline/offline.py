"""A process that has called `close` reaches its own machine only."""

import ipaddress
import socket

CONNECT, LOOK_UP = socket.socket.connect, socket.getaddrinfo


def is_local(host) -> bool:
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == socket.gethostname()
    return address.is_loopback or address.is_unspecified


def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
        raise OSError(f"no network in tests: {address[0]}")
    return CONNECT(self, address)


def look_up(host, *args, **kwargs):
    if not is_local(host):
        raise socket.gaierror(f"no network in tests: {host}")
    return LOOK_UP(host, *args, **kwargs)


def close():
    "Refuse connections and look-ups that would leave this machine."
    socket.socket.connect, socket.getaddrinfo = connect, look_up
