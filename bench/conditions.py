"""Under what is compared: what is there before, how many work, and how much they do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .samples import TASK_TYPE, Sample

__all__ = ["CONDITIONS", "Condition", "Load"]


@dataclass(frozen=True)
class Load:
    """How much each phase does, for all processes together.

    Attributes:
        jobs: How many cycles, and how many jobs added one by one.
        batches: How many batches are added.
        batch_size: How many jobs each has.
        drained: How many jobs are drained.
    """

    jobs: int
    batches: int = 4
    batch_size: int = 1000
    drained: int = 3750

    def reduced(self, part: float) -> Load:
        """Return so much of it; each batch stays as large."""
        return replace(
            self,
            jobs=round(self.jobs * part),
            batches=max(1, round(self.batches * part)),
            drained=round(self.drained * part),
        )

    def shared_by(self, processes: int) -> Load:
        """Return one process's share."""
        return Load(
            max(1, self.jobs // processes),
            max(1, self.batches // processes),
            self.batch_size,
            max(1, self.drained // processes),
        )


@dataclass(frozen=True)
class Condition:
    """What is there before, and how many work.

    Attributes:
        sample: What the database holds.
        processes: How many work at once.
        part: Which part of the rounds it has: large databases take long to copy.
        load_part: Which part of the load it has: some claim a dozen jobs a second here.
        with_peers: Whether others are measured too: a million rows of each take minutes to write.
        synchronous: SQLite's: `NORMAL`, or `FULL`, as the services have it.
    """

    sample: Sample
    processes: int = 1
    part: float = 1.0
    load_part: float = 1.0
    with_peers: bool = True
    synchronous: str = "NORMAL"

    @property
    def name(self) -> str:
        """As the results call it."""
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        durability = "" if self.synchronous == "NORMAL" else f", synchronous={self.synchronous}"
        return f"{self.sample.name}, {processes}{durability}"


_EMPTY = Sample("empty")
CONDITIONS = (
    Condition(_EMPTY),  # on which the targets are: all rounds, and the whole load
    Condition(_EMPTY, part=0.4, load_part=0.4, synchronous="FULL"),
    Condition(_EMPTY, processes=2, part=0.4, load_part=0.4),
    Condition(_EMPTY, processes=8, part=0.4, load_part=0.4),
    Condition(
        Sample("100 k finished, 1 k waiting", 100_000, 1_000, TASK_TYPE), part=0.4, load_part=0.4
    ),
    Condition(Sample("100 k waiting", 0, 100_000, TASK_TYPE), part=0.4, load_part=0.08),
    Condition(
        Sample("1 M finished, 100 k waiting", 1_000_000, 100_000, TASK_TYPE),
        part=0.4,
        load_part=0.4,
        with_peers=False,
    ),
)
