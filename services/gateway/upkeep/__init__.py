"""Care of a whole installation: what administrators do on the command line, with or without running gateways.

Nothing here keeps a lock: whatever is mended is mended as a gateway would, by compare-and-set on the task's revision
and by renames, so that gateways and services may go on meanwhile.
"""

from .site import Site

__all__ = ["Site"]
