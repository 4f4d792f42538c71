"""The page of a data card: one HTML file that needs nothing else, without scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.corpus import REJECTS, Manifest
from pipelines.ingest.card.data import CardSettings, Facts
from pipelines.reports import (
    STYLE,
    Picture,
    amount,
    chart,
    figure,
    last_part,
    name,
    percent,
    photograph,
    plural,
    table,
    text,
)

REASONS = {
    "unsupported_format": "not a picture of an accepted format, whatever its suffix says; or an animation",
    "truncated": "the file ends before the picture does",
    "corrupt": "the file's data contradict its format",
    "too_large": "more bytes or pixels than the limits allow, or a far longer shape",
    "too_small": "a side is shorter than the smallest one allowed",
    "too_long": "many times as long as wide",
    "unreadable": "the file could not be opened or read",
    "changed": "the file changed while the corpus was being made",
    "bad_depth": "its depth map cannot belong to it: unreadable, constant, not finite or of another shape",
    "held_out": "it is on the list of photographs to keep out of this corpus",
}
"""What a reject's reason code means, in plain words."""
KINDS = {
    "near": "looks like another photograph: few bits of their perceptual hashes differ",
    "other_corpus": "is already in another corpus",
    "exact": "has the same bytes as another file",
}
"""What the kinds of duplicates mean."""
DOMAINS = {"hazy": "photographs of hazy scenes", "clear": "photographs of clear scenes"}
BANDS = {"lowest": "The least hazy", "middle": "In the middle", "highest": "The haziest"}
_SHOWN_REASONS = 40
_MANIFEST_LONGEST = 20_000
# Nothing may be loaded or run, whatever a name holds that slipped through.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Pair:
    """A duplicate: the photograph that was kept and the one that was dropped, with the latter's row."""

    kept: Picture
    dropped: Picture


@dataclass(frozen=True)
class Suspect:
    """A suspicious depth map: its photograph, the map, and what was said of it (``suspicions``, ``message``)."""

    photograph: Picture
    depth: Picture
    said: Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """Everything on the page; the pictures are made. ``suspicious`` counts all suspicious depth maps."""

    uri: str
    manifest: Manifest
    facts: Facts
    samples: Sequence[Picture]
    bands: Mapping[str, Sequence[Picture]]
    pairs: Sequence[Pair]
    rejects: Mapping[str, Sequence[Picture]]
    suspects: Sequence[Suspect]
    suspicious: int
    settings: CardSettings
    versions: Mapping[str, str]


def card_html(card: Card) -> str:
    """The page. Pure: the same card gives the same text."""
    title = f"{card.manifest.domain.capitalize()} corpus {last_part(card.uri)}"
    sections = [
        ("files", "Files", _files(card)),
        ("sizes", "Sizes", _sizes(card)),
        ("haze", "Haze density", _haze(card)),
        ("depth", "Depth maps and pairs", _depth(card)),
        ("photographs", "Photographs at random", _samples(card)),
        ("duplicates", "Duplicates", _duplicates(card)),
        ("rejects", "Rejected files", _rejects(card)),
        ("made", "How it was made", _made(card)),
    ]
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _ in sections)
    body = "".join(
        f'<section id="{anchor}"><h2>{heading}</h2>{content}</section>' for anchor, heading, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{text(title)}</title><style>{STYLE}</style></head>\n'
        '<body><header><p class="kind">Data card</p>'
        f"<h1>{card.manifest.domain.capitalize()} corpus <span>{name(last_part(card.uri))}</span></h1>"
        f"{_lead(card)}<nav>{links}</nav></header>\n<main>{body}</main></body></html>\n"
    )


def _lead(card: Card) -> str:
    manifest = card.manifest
    train, test = manifest.splits.get("train", 0), manifest.splits.get("test", 0)
    what = DOMAINS[manifest.domain]
    if manifest.accepted == 1:
        what = what.replace("photographs", "photograph", 1)
    return (
        f"<p>{manifest.accepted:,} {what}, {card.facts.pixels / 1e6:,.0f} megapixels in all: {train:,} to train on and "
        f"{test:,} held out for tests. Which of the two follows from a photograph's content, so it never changes sides."
        f'</p><p class="where">{name(card.uri)}</p>'
    )


def _files(card: Card) -> str:
    manifest, found = card.manifest, card.manifest.found
    parts = [
        ("train", "accepted, to train on", manifest.splits.get("train", 0), "s0"),
        ("test", "accepted, held out for tests", manifest.splits.get("test", 0), "s1"),
        ("duplicates", "left out, the corpus has them already", manifest.duplicates, "s2"),
        ("rejected", "cannot or must not be used", manifest.rejected, "s3"),
    ]
    bar = "".join(f'<i class="{c}" style="flex-grow:{n}"></i>' for _, _, n, c in parts if n)
    tiles = "".join(
        f'<li><i class="{c}"></i><b>{n:,}</b> {what} <small>{percent(n, found)}<br>{meaning}</small></li>'
        for what, meaning, n, c in parts
    )
    return (
        f"<p>{plural(found, 'photograph')} found in the sources; every one of them is counted below.</p>"
        f'<div class="bar" role="img" aria-label="accepted, duplicates and rejected as shares">{bar}</div>'
        f'<ul class="tiles">{tiles}</ul>{_left_out(card)}'
    )


def _left_out(card: Card) -> str:
    """Duplicates by kind and rejects by reason, each in plain words."""
    found = card.manifest.found
    kinds = [(f"duplicate, {kind}", KINDS.get(kind, ""), n) for kind, n in card.facts.duplicates.items() if n]
    reasons = sorted(card.manifest.reasons.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_REASONS]
    codes = [(f"rejected, {reason}", REASONS.get(reason, "see the messages below"), n) for reason, n in reasons]
    if not kinds and not codes:
        return "<p>Nothing was left out.</p>"
    rows = [
        (text(code.replace("_", " ")), text(meaning), f"{n:,}", percent(n, found)) for code, meaning, n in kinds + codes
    ]
    return "<h3>Why files were left out</h3>" + table(["", "what it means", "files", "share"], rows, (2, 3))


def _sizes(card: Card) -> str:
    facts, count = card.facts, card.manifest.accepted
    if not count:
        return "<p>There are no photographs.</p>"
    return (
        f"<p>The original files of the accepted photographs have {amount(facts.bytes)} and "
        f"{facts.pixels / 1e6:,.1f} megapixels: on average {amount(facts.bytes / count)} and "
        f"{facts.pixels / count / 1e6:,.2f} megapixels each. The corpus may hold them reduced.</p>"
        '<div class="charts">'
        + chart(facts.sides, "Long sides", "pixels", lambda edge: f"{edge:g}")
        + chart(facts.sizes, "Files", "bytes", amount)
        + "</div>"
    )


def _haze(card: Card) -> str:
    facts = card.facts
    if not facts.measured:
        return "<p>It was not measured.</p>"
    means = " and ".join(f"{mean:.2f} in {split}" for split, mean in facts.mean_haze.items())
    missing = card.manifest.accepted - facts.measured
    unmeasured = f" It is missing for {plural(missing, 'photograph')}." if missing else ""
    histogram = chart(facts.haze, "Haze density by split", "haze density", lambda edge: f"{edge:g}")
    bands = "".join(
        f'<h3>{BANDS[band]}</h3><div class="grid">{"".join(photograph(p) for p in pictures)}</div>'
        for band, pictures in card.bands.items()
        if pictures
    )
    return (
        "<p>0 is clear, 1 opaque: one minus the mean transmission that the dark channel prior finds in a thumbnail. "
        "The prior takes white walls, snow and pale skies for haze, so read it over many photographs, not for one. "
        f"The mean is {means}.{unmeasured}</p>"
        f'<div class="charts">{histogram}</div>{bands}'
    )


def _depth(card: Card) -> str:
    facts, count = card.facts, card.manifest.accepted
    counts = (
        f"<p>{facts.depth:,} of {plural(count, 'photograph')} ({percent(facts.depth, count)}) have a depth map; the "
        f"others get haze by a procedural depth in training. {facts.pairs:,} ({percent(facts.pairs, count)}) have a "
        "pair id, which names the scene that several photographs show.</p>"
    )
    if not card.suspicious:
        return counts + "<p>No depth map looks suspicious.</p>"
    return (
        f"{counts}<h3>Suspicious depth maps</h3><p>{plural(card.suspicious, 'depth map')} may be inverted, nearly "
        f"constant or otherwise wrong{_shown(len(card.suspects), card.suspicious)}. White is near, black is far: the "
        'ground at your feet should be bright, the horizon dark.</p><div class="pairs">'
        + "".join(map(_suspect, card.suspects))
        + "</div>"
    )


def _suspect(suspect: Suspect) -> str:
    said = "".join(f"<li>{text(word.replace('_', ' '))}</li>" for word in suspect.said["suspicions"][:6])
    depth = suspect.said.get("depth") or ""
    caption = f"<span><b>depth map</b> {name(depth)}</span>"
    alt = f"depth map of {last_part(suspect.photograph.uri)}"
    return (
        f'<article><ul class="words">{said}</ul><p>{text(suspect.said.get("message", ""), 240)}</p><div class="two">'
        f"{photograph(suspect.photograph, 'photograph')}{figure(suspect.depth, caption, alt)}</div></article>"
    )


def _samples(card: Card) -> str:
    if not card.samples:
        return "<p>None are shown.</p>"
    return (
        f"<p>{len(card.samples)} of {plural(card.manifest.accepted, 'accepted photograph')}.</p>"
        f'<div class="grid">{"".join(photograph(p) for p in card.samples)}</div>'
    )


def _duplicates(card: Card) -> str:
    count = card.manifest.duplicates
    if not count:
        return "<p>None were found.</p>"
    return (
        f"<p>{plural(count, 'file')} left out{_shown(len(card.pairs), count)}; of each kind the most doubtful first. "
        "The distance counts the bits, of 64, in which the perceptual hashes differ: the larger it is, the less alike "
        f'they are.</p><div class="pairs">{"".join(map(_pair, card.pairs))}</div>'
    )


def _pair(pair: Pair) -> str:
    row = pair.dropped.row
    kind = row["reason"]
    how = "same bytes" if kind == "exact" else f"{plural(row['distance'] or 0, 'bit')} apart"
    return (
        f'<article><ul class="words"><li>{text(kind.replace("_", " "))}</li><li>{how}</li></ul><div class="two">'
        f"{photograph(pair.kept, 'kept')}{photograph(pair.dropped, 'dropped')}</div></article>"
    )


def _rejects(card: Card) -> str:
    manifest = card.manifest
    if not manifest.rejected:
        return "<p>None were rejected.</p>"
    parts = []
    for reason, pictures in card.rejects.items():
        count = manifest.reasons.get(reason, len(pictures))
        about = [f"{plural(count, 'file')}{_shown(len(pictures), count)}", text(REASONS.get(reason, ""))]
        parts.append(
            f"<h3>{text(reason.replace('_', ' ').capitalize())} <small>{': '.join(filter(None, about))}</small></h3>"
            f'<div class="grid">{"".join(map(_reject, pictures))}</div>'
        )
    return f"<p>{plural(manifest.rejected, 'file')}; <code>{REJECTS}</code> lists them all.</p>{''.join(parts)}"


def _reject(picture: Picture) -> str:
    """The catalogue's message says what is wrong; the box in place of a picture need not say it again."""
    message = picture.row["message"] or picture.problem
    return photograph(replace(picture, problem=""), more=f'<span class="message">{name(message, 140)}</span>')


def _made(card: Card) -> str:
    manifest = card.manifest
    rows = [
        ("fingerprints of sources and settings", f"<code>{text(', '.join(manifest.sources)) or 'none'}</code>"),
        ("shards", f"{len(manifest.files):,} Parquet files, {sum(manifest.row_groups.values()):,} row groups"),
        ("this card", f"{_card_words(card.settings)}"),
        *((text(package), text(version)) for package, version in card.versions.items()),
    ]
    rest = json.dumps(manifest.model_dump(mode="json", exclude={"files", "row_groups"}), indent=2, ensure_ascii=False)
    return (
        "<p>The corpus was made by <code>python -m pipelines.ingest</code>: files are hashed, decoded and checked, "
        "duplicates found by content and by perceptual hash, and what is left is cut into shards of one split each. "
        "The page was made from the catalogue, which has a row for every file found; "
        "<code>python -m pipelines.ingest.card.command</code> makes it anew.</p>"
        + table(["", ""], rows)
        + f"<details><summary>Manifest</summary><pre>{text_block(rest)}</pre></details>"
    )


def text_block(block: str) -> str:
    """Several lines, escaped."""
    lines = block[:_MANIFEST_LONGEST].split("\n")
    return "\n".join(text(line, 400) for line in lines)


def _card_words(settings: CardSettings) -> str:
    return f"photographs chosen at random with seed {settings.seed}"


def _shown(shown: int, count: int) -> str:
    return "" if shown >= count else f", {shown:,} shown"
