"""The task `image_resize`: pictures in another size."""

from __future__ import annotations

from functools import partial
from typing import Optional

from pydantic import Field, model_validator

from .pictures import PictureModule, PictureParams, PictureWork, output_path

__all__ = ["ImageResize", "ImageResizeParams"]

# The longest side that the common formats can store.
_MAX_SIDE = 65_535

# As `media.images.MAX_PIXELS`, which this module does not import: that would load Pillow.
_MAX_PIXELS = 100_000_000


class ImageResizeParams(PictureParams):
    """The parameters of `image_resize`.

    Attributes:
        width: In pixels, of the picture upright.
        height: In pixels, of the picture upright.
        maintain_aspect_ratio: Fit within `width` x `height`; otherwise fill it exactly.
        enlarge: Whether a side may become longer than the original's.
    """

    width: int = Field(
        ge=1,
        le=_MAX_SIDE,
        description="Width of the result in pixels; the most it may be, "
        "where maintain_aspect_ratio is true.",
    )
    height: int = Field(
        ge=1,
        le=_MAX_SIDE,
        description="Height of the result in pixels; the most it may be, "
        "where maintain_aspect_ratio is true.",
    )
    maintain_aspect_ratio: bool = Field(
        default=False,
        description="true: as large as fits within width x height, nothing distorted or cut off. "
        "false: exactly width x height, stretched where the proportions differ.",
    )
    enlarge: bool = Field(
        default=True,
        description="false: no side becomes longer than the original's.",
    )

    @model_validator(mode="after")
    def _not_too_many_pixels(self) -> ImageResizeParams:
        # Fitting may name a side that is never reached: "2000 wide, however high".
        if not self.maintain_aspect_ratio and self.width * self.height > _MAX_PIXELS:
            raise ValueError(
                f"{self.width} x {self.height} are {self.width * self.height / 1e6:.1f} "
                f"megapixels; at most {_MAX_PIXELS // 1_000_000} are written"
            )
        return self

    def default_output_path(self, input_path: str) -> Optional[str]:
        """Return `output/resized_{name}`."""
        return output_path("resized_", input_path)


class ImageResize(PictureModule[ImageResizeParams]):
    """Resizes pictures; each keeps its format, unless its output path names another."""

    task_type = "image_resize"
    params = ImageResizeParams

    def work(self, params: ImageResizeParams) -> PictureWork:
        """Return the resizing of one picture."""
        from ..media.resizing import resize_image

        return partial(
            resize_image,
            width=params.width,
            height=params.height,
            maintain_aspect_ratio=params.maintain_aspect_ratio,
            enlarge=params.enlarge,
        )
