"""Ports of the loopback address that nobody has."""

import socket


def free_ports(count: int) -> list[int]:
    """So many different ones, free when this returns."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
