"""Where workers listen for gRPC: what it needs, and the port that they share."""

from __future__ import annotations

import importlib.util
import socket

from madang.errors import MissingDependencyError


def require_grpc() -> None:
    """Checks that gRPC can be spoken, without importing it.

    Raises:
        MissingDependencyError: The extra `grpc` is not installed.
    """
    for module in ("grpc", "google.protobuf"):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # the package google is not there at all
            found = None
        if found is None:
            raise MissingDependencyError("gRPC (local://…?grpc_port=)", module, "grpc")


def reserve(host: str, port: int) -> socket.socket:
    """Keeps a port for workers that bind it with SO_REUSEPORT; 0 for any free one.

    The socket doesn't listen, so no connection comes to it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    holder = socket.socket(family, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((host, port))
    return holder
