"""Contact sheets: pictures side by side in lines, with words on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK = (255, 255, 255), (20, 20, 20)
_GAP, _LINE, _SIZE = 8, 20, 13
_MARGIN = Image.new("RGB", (_GAP, _GAP), _PAPER)


@dataclass(frozen=True)
class Line:
    """Pictures side by side, any of them None, with a caption below each if there are any, and a label below all."""

    pictures: Sequence[Image.Image | None]
    label: str
    captions: Sequence[str] = ()


def contact_sheet(lines: Sequence[Line], heads: Sequence[str], title: str = "", across: int = 1) -> Image.Image:
    """Draw lines under each other, or ``across`` of them side by side and the others below. Words that are too long for
    their place are shortened.

    Args:
        lines: at least one, all with as many pictures.
        heads: over the columns of pictures.
        title: over all.
    """
    width = max((p.width for line in lines for p in line.pictures if p is not None), default=1)
    strips, each = [_strip(line, width) for line in lines], len(lines[0].pictures)
    tops = [joined([_words(heads[i : i + each], width), _MARGIN]) for i in range(0, len(heads), each)]
    sheet = joined(
        [joined(row) for row in (tops, *(strips[i : i + across] for i in range(0, len(strips), across)))], down=True
    )
    return joined([_words([title], sheet.width - 2 * _GAP), sheet], down=True) if title else sheet


def joined(pictures: Sequence[Image.Image], *, down: bool = False) -> Image.Image:
    """Join pictures from left to right, or from top to bottom."""
    widths, heights = [p.width for p in pictures], [p.height for p in pictures]
    whole = Image.new("RGB", (max(widths), sum(heights)) if down else (sum(widths), max(heights)), _PAPER)
    place = 0
    for picture in pictures:
        whole.paste(picture, (0, place) if down else (place, 0))
        place += picture.height if down else picture.width
    return whole


def _strip(line: Line, width: int) -> Image.Image:
    blank = Image.new("RGB", (width, 1), _PAPER)
    # Below a blank strip each is as wide as the widest.
    pictures = [joined([blank, picture or blank], down=True) for picture in line.pictures]
    parts = [joined([part for picture in pictures for part in (_MARGIN, picture)])]
    if line.captions:
        parts.append(_words(line.captions, width))
    parts.append(_words([line.label], len(pictures) * (width + _GAP) - _GAP))
    return joined([joined([*parts, _MARGIN], down=True), _MARGIN])


def _words(texts: Iterable[str], width: int) -> Image.Image:
    """Draw texts side by side, each in ``width`` pixels."""
    fitting = [_fit(text, width) for text in texts]
    band = Image.new("RGB", (len(fitting) * (width + _GAP) + _GAP, _LINE + _GAP // 2), _PAPER)
    draw = ImageDraw.Draw(band)
    for place, text in enumerate(fitting):
        draw.text((_GAP + place * (width + _GAP), 2), text, _INK, ImageFont.load_default(_SIZE))
    return band


def _fit(text: str, width: int) -> str:
    """Return a text on one line, and without its middle if it is too long: both ends of a file's name tell it apart."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    font, kept, shown = ImageFont.load_default(_SIZE), len(plain), plain
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{plain[: kept // 2]}…{plain[-(kept // 2) :]}"
    return shown
