"""The task `image_conversion`: pictures in another format."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal, Optional

from pydantic import Field, model_validator

from ..compute import ComputeModule, ProgressCallback
from ..media.formats import format_by_suffix
from .pictures import PictureParams, output_path, run_per_picture

__all__ = ["ImageConversion", "ImageConversionParams"]

# Where a second encoding is hard to see and the file still small; what cameras' "fine" comes to.
_DEFAULT_QUALITY = 85


class ImageConversionParams(PictureParams):
    """The parameters of `image_conversion`.

    Attributes:
        format: What to convert to.
        quality: For formats that lose detail.
    """

    format: Literal["png", "jpg", "webp", "gif", "bmp", "tiff"] = Field(
        description="Format of the result."
    )
    quality: int = Field(
        default=_DEFAULT_QUALITY,
        ge=1,
        le=100,
        description="1 (smallest file) to 100 (best picture), for jpg and webp; "
        "the others lose nothing and ignore it.",
    )

    @model_validator(mode="after")
    def _names_say_the_format(self) -> ImageConversionParams:
        for path in self.output_paths:
            named = format_by_suffix(PurePosixPath(path).suffix)
            if named is not None and named.name != self.format:
                raise ValueError(f"the output path {path!r} does not fit the format {self.format}")
        return self

    def default_output_path(self, input_path: str) -> Optional[str]:
        """Return `output/converted_{stem}.{format}`."""
        return output_path("converted_", input_path, suffix=f".{self.format}")


class ImageConversion(ComputeModule):
    """Converts pictures to another format."""

    @property
    def supported_task_types(self) -> list[str]:
        """`image_conversion`."""
        return ["image_conversion"]

    def params_model(self, task_type: str) -> type[ImageConversionParams]:
        """Return `ImageConversionParams`."""
        return ImageConversionParams

    async def process(
        self,
        job_id: str,
        task_type: str,
        params: dict[str, Any],
        progress_callback: Optional[ProgressCallback] = None,
    ) -> dict[str, Any]:
        """Convert each input; see `ComputeModule.process`."""
        from ..media.conversion import convert_image

        wanted = ImageConversionParams.model_validate(params)
        convert = partial(convert_image, format_name=wanted.format, quality=wanted.quality)
        return run_per_picture(wanted, convert, progress_callback)
