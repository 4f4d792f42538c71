"""A decoded photograph: the form next to files. :mod:`models.images` offers it too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from models.image_metadata import Metadata
from models.image_tensors import quantise, to_tensor

if TYPE_CHECKING:  # as in models.images
    from torch import Tensor

Array = NDArray[Any]  # uint8 unless a docstring says more


@dataclass(frozen=True)
class Photo:
    """A decoded photograph, upright and in sRGB.

    Attributes:
        pixels: (H, W, 3) RGB; uint8, or uint16 for sources with more than 8 bits (0..65535).
        alpha: (H, W) of the same dtype, or None.
        icc: the sRGB profile to embed again when the source had a profile, else None.
        format: of the source, such as ``"JPEG"``.
        metadata: EXIF, XMP and resolution, cleaned; None when the source tells nothing.
        grey: the source has one channel of color, and so has what is written, as long as the pixels are neutral.
        notes: plain sentences on what is not as the file has it, whatever is written from it: parts that are missing,
            an HDR gain map or further frames that are left out.
        dropped: kinds of metadata in the file that no result keeps, such as "thumbnail"; see :func:`lost`.
    """

    pixels: Array
    alpha: Array | None = None
    icc: bytes | None = None
    format: str = "PNG"
    metadata: Metadata | None = None
    grey: bool = False
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def tensor(self) -> Tensor:
        """The pixels as float32 (1, 3, H, W) in [0, 1]."""
        return to_tensor(self.pixels)

    def with_tensor(self, image: Tensor) -> Photo:
        """This photo with other pixels: ``image`` is (1, 3, H, W) float, clamped to [0, 1].

        Raises:
            ValueError: another shape than (1, 3, H, W), or another size while there is alpha to go with it.
        """
        if image.dim() != 4 or image.shape[:2] != (1, 3):
            raise ValueError(f"image is {tuple(image.shape)}; expected (1, 3, H, W)")
        if self.alpha is not None and tuple(image.shape[2:]) != self.alpha.shape:
            raise ValueError(f"image is {tuple(image.shape[2:])} but the alpha channel is {self.alpha.shape}")
        return replace(self, pixels=quantise(image, self.pixels.dtype)[0])
