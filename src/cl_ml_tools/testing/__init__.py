"""For tests of services and compute modules: the real rules, in memory.

`InMemoryJobRepository` passes the same conformance suite as the one in SQL, `ScratchStorage` the
same as the one of the services; `RecordingBroadcaster` keeps what was published. Assert on what
they hold, not on which calls were made.
"""

from .broadcast import RecordingBroadcaster
from .jobs import InMemoryJobRepository, InMemoryJobs
from .storage import ScratchStorage

__all__ = ["InMemoryJobRepository", "InMemoryJobs", "RecordingBroadcaster", "ScratchStorage"]
