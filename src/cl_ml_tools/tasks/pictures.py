"""What the tasks that make one picture of each picture have in common."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Generic, Optional, Protocol, TypeVar

from pydantic import ConfigDict, Field

from ..compute import BaseJobParams, ComputeModule, ProgressCallback, with_output_paths
from ..errors import FinalError
from ..names import fitted_name

if TYPE_CHECKING:
    from ..media.rendering import RenderedImage

__all__ = ["PictureModule", "PictureParams", "PictureWork", "output_path"]


class PictureParams(BaseJobParams):
    """Parameters of a task that makes one picture of each picture; a misspelt one is refused.

    Attributes:
        input_paths: The pictures, at least one.
    """

    model_config = ConfigDict(extra="forbid")

    input_paths: list[str] = Field(
        min_length=1, description="The pictures to read, relative to the job's workspace."
    )
    output_paths: list[str] = Field(
        default_factory=list,
        description="Where the results go, one for each input, such as output/small.jpg; "
        "empty: named after the inputs.",
    )


class PictureWork(Protocol):
    """What is done with one picture."""

    def __call__(
        self, source: Path, target: Path, *, on_progress: Callable[[float], None]
    ) -> RenderedImage:
        """Read `source`, write `target`."""


P = TypeVar("P", bound=PictureParams)


class PictureModule(ComputeModule, Generic[P]):
    """A module whose one task makes a picture of each picture.

    Attributes:
        task_type: The task.
        params: The model of its parameters.
    """

    task_type: ClassVar[str]
    params: type[P]

    @abstractmethod
    def work(self, params: P) -> PictureWork:
        """Return what is done with each picture. Imports what it needs: Pillow is heavy."""

    @property
    def supported_task_types(self) -> list[str]:
        """The one task."""
        return [self.task_type]

    def params_model(self, task_type: str) -> type[P]:
        """Return the model of the task's parameters."""
        return self.params

    async def process(
        self,
        job_id: str,
        task_type: str,
        params: dict[str, Any],
        progress_callback: Optional[ProgressCallback] = None,
    ) -> dict[str, Any]:
        """Do the work with each input; see `ComputeModule.process`."""
        wanted = self.params.model_validate(params)
        return _run_per_picture(wanted, self.work(wanted), progress_callback)


def output_path(prefix: str, input_path: str, *, suffix: Optional[str] = None) -> str:
    """Return `output/{prefix}{name}`, with another suffix where one is given.

    A name that would become too long for a file system loses the end of its stem.

    Args:
        prefix: What stands before the name.
        input_path: The input; its last component is the name.
        suffix: With its dot.
    """
    name = PurePosixPath(input_path.replace("\\", "/"))
    ending = name.suffix if suffix is None else suffix
    return f"output/{fitted_name(prefix + name.stem, ending)}"


def _run_per_picture(
    params: PictureParams, work: PictureWork, progress_callback: Optional[ProgressCallback]
) -> dict[str, Any]:
    """Run `work` on each input and return the result of the job.

    Args:
        params: With absolute paths.
        work: What is done.
        progress_callback: Takes 0 to 100.

    Raises:
        FinalError: A picture cannot be read, or needs too much memory; none after it is looked at.
    """
    outputs = with_output_paths(params)
    files = []
    for index, (source, target) in enumerate(zip(params.input_paths, outputs)):

        def report(fraction: float, done: int = index) -> None:
            if progress_callback is not None:
                progress_callback(int(100 * (done + fraction) / len(outputs)))

        try:
            written = work(Path(source), Path(target), on_progress=report)
        except MemoryError as error:
            raise FinalError(
                f"{Path(source).name} needs more memory than a job may use here"
            ) from error
        files.append(
            {
                "input": Path(source).name,
                "output": Path(target).name,
                "width": written.width,
                "height": written.height,
                "format": written.format,
                "size": written.size_bytes,
            }
        )
    return {"status": "ok", "task_output": {"files": files}}
