"""What can be wrong with an image. :mod:`models.images` offers these names too."""

from __future__ import annotations


class ImageError(ValueError):
    """An image that cannot be taken; ``code`` is stable and fit for APIs and reject lists."""

    code = "image"


class ImageTooLarge(ImageError):  # noqa: N818 - the contract's name
    """More bytes or pixels, or a longer shape, than the limits allow."""

    code = "too_large"


class UnsupportedFormat(ImageError):  # noqa: N818 - the contract's name
    """Not an image, or one of a format, colour model or kind that is not on the list."""

    code = "unsupported_format"


class CorruptImage(ImageError):  # noqa: N818 - the contract's name
    """The header or the data contradict the format."""

    code = "corrupt"


class TruncatedImage(ImageError):  # noqa: N818 - the contract's name
    """The file ends before the picture does."""

    code = "truncated"
