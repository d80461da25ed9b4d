"""What a peer has to be able to do to be measured."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, ClassVar

from ..samples import Sample

__all__ = ["Drained", "Peer", "PeerQueue", "SteppedQueue"]


@dataclass(frozen=True)
class Drained:
    """What one call of `drain` did.

    Attributes:
        jobs: How many it took and finished.
        ended: When the last of them was finished, on `time.monotonic`; a worker that then takes
            its time to stop has been quick all the same.
    """

    jobs: int
    ended: float


class PeerQueue(ABC):
    """One process's hold on a queue. What writes returns once it is committed."""

    @abstractmethod
    def add_one(self) -> None:
        """Add a job."""

    @abstractmethod
    def add_many(self, count: int) -> None:
        """Add jobs in the way that is meant for many."""

    @abstractmethod
    def cycle(self) -> None:
        """Add a job, take one, finish it."""

    @abstractmethod
    def drain(self, at_most: int) -> Drained:
        """Take and finish so many jobs, or a few more, as a worker does."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""


class SteppedQueue(PeerQueue):
    """A queue whose jobs the caller takes and finishes."""

    @abstractmethod
    def take(self) -> Any:
        """Take the next job, to be handed to `finish`; `None` where there is none."""

    @abstractmethod
    def finish(self, taken: Any) -> None:
        """Tell that a job has been done."""

    def cycle(self) -> None:
        """Add a job, take one, finish it."""
        self.add_one()
        self.finish(self.take())

    def drain(self, at_most: int) -> Drained:
        """Take and finish jobs one by one."""
        done = 0
        while done < at_most and (taken := self.take()) is not None:
            self.finish(taken)
            done += 1
        return Drained(done, time.monotonic())


class Peer(ABC):
    """A queue to measure.

    Attributes:
        name: As the results call it.
        distribution: The package that has its version.
        module: What is imported of it.
        needs: What else has to be there.
        database: `sqlite`, `postgresql` or `redis`.
        writes: What it writes for one job, from added to finished, in words.
        keeps_finished: Whether finished jobs stay in its tables as it comes.
        is_shared: Whether several processes may work on it.
        rounds_at_most: In how many rounds it takes part.
    """

    name: str
    distribution: ClassVar[str]
    module: ClassVar[str]
    database: ClassVar[str]
    writes: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    keeps_finished: ClassVar[bool] = True
    is_shared: ClassVar[bool] = True
    rounds_at_most: ClassVar[int] = 100

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        return all(find_spec(module) is not None for module in (self.module, *self.needs))

    @property
    def version(self) -> str:
        """Its package's version."""
        return metadata.version(self.distribution)

    @abstractmethod
    def create(self, address: str, sample: Sample) -> None:
        """Make its tables and the sample's rows in an empty place.

        Args:
            address: A new folder for SQLite, a libpq URL for PostgreSQL, a URL for Redis.
            sample: What is to be there; finished jobs only where it keeps them.
        """

    @abstractmethod
    def open(self, address: str) -> PeerQueue:
        """Open it, in the process that works on it."""

    @contextmanager
    def served(self, address: str, processes: int) -> Iterator[None]:
        """Run what it needs beside it: so many processes that work."""
        yield
