"""The task `image_conversion`: pictures in another format."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import Literal, Optional

from pydantic import Field, model_validator

from ..media.formats import format_by_suffix
from .pictures import PictureModule, PictureParams, PictureWork, output_path

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


class ImageConversion(PictureModule[ImageConversionParams]):
    """Converts pictures to another format."""

    task_type = "image_conversion"
    params = ImageConversionParams

    def work(self, params: ImageConversionParams) -> PictureWork:
        """Return the conversion of one picture."""
        from ..media.conversion import convert_image

        return partial(convert_image, format_name=params.format, quality=params.quality)
