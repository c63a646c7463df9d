"""A local server that speaks for the public archives, and can be told to misbehave."""

from .server import ArchiveServer, Behaviour

__all__ = ["ArchiveServer", "Behaviour"]
