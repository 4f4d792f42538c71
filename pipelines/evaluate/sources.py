"""Which photographs an evaluation looks at: corpora and plain folders, a split, a limit. No Ray."""

from __future__ import annotations

import heapq
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from models import images
from models.config import ConfigError
from models.images import IMAGE_SUFFIXES
from models.paths import child, exists, filesystem, is_uri
from pipelines.corpus import (
    MANIFEST,
    Corpus,
    Location,
    image_id_of,
    left_out_text,
    local_path,
    parquet_file,
    photographs_below,
    place_name,
    printable,
    read_place,
    require_corpus,
    split_of,
)
from pipelines.disk_errors import reason_of
from pipelines.evaluate.config import Split


@dataclass(frozen=True)
class SourceEntry:
    """One photograph to evaluate: a row of ``row_group`` of the shard at ``path``, or the file at ``path`` itself.

    ``size`` is its width and height, None where its header cannot be read.
    """

    image_id: str
    name: str
    split: str
    path: str
    row_group: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Selection:
    """The photographs chosen from one source, ordered by image id.

    ``split`` is what was used, which is ``all`` when the one asked for is empty; ``in_sample`` says that some of
    them belong to the training split of a corpus.
    """

    source: str
    found: int
    split: Split
    in_sample: bool
    entries: tuple[SourceEntry, ...]
    warnings: tuple[str, ...] = ()


def is_corpus(path: str) -> bool:
    """Say whether a path or URI is a corpus: a folder with a manifest; any other folder holds photographs.

    Raises:
        ConfigError: nobody can say.
    """
    try:
        return exists(child(path, MANIFEST))
    except OSError as problem:
        raise ConfigError(f"cannot read {path}: {problem}") from problem


def _photographs(folder: str, expected: str) -> tuple[dict[str, str], Counter[str]]:
    try:
        return photographs_below(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"there is no folder {folder}; {expected}") from None
    except OSError as problem:
        raise ConfigError(f"cannot read {folder}: {problem}") from problem


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return upright width and height by the header; None where the bytes are no picture."""
    try:
        header = images.probe(data)
    except images.ImageError:
        return None
    return header.width, header.height


def folder_entries(folder: str) -> tuple[list[SourceEntry], list[str]]:
    """List the photographs of a plain folder, at a path or URI, with the ids and splits that ingest would give them,
    one entry per content; and warnings of what is left out. All of them are read.

    Raises:
        ConfigError: the folder is missing or holds no photograph.
    """
    entries: dict[str, SourceEntry] = {}
    copies, warnings = list[str](), list[str]()
    places, left = _photographs(folder, "expected a folder of photographs or a corpus")
    for below, place in places.items():
        name = printable(below)
        try:
            data = read_place(Location(place))
        except OSError as problem:
            warnings.append(f"{folder}: {name} cannot be read and is left out: {reason_of(problem)}")
            continue
        image_id = image_id_of(data)
        if image_id in entries:
            copies.append(f"{name} is {entries[image_id].name}")
        else:
            entries[image_id] = SourceEntry(image_id, name, split_of(image_id), place, size=size_of(data))
    if copies:
        warnings.append(f"{folder}: files of the same content count once: {_list(copies)}")
    if left:
        warnings.append(f"{folder}: left out are {left_out_text(left)}")
    if not entries:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        why = f"; {'; '.join(warnings[:3])}" if warnings else ""
        raise ConfigError(f"{folder} holds no photograph ({suffixes}) and no manifest.json of a corpus{why}")
    return list(entries.values()), warnings


def corpus_entries(corpus: Corpus, split: str | None = None) -> Iterator[SourceEntry]:
    """Yield the photographs of a corpus, of one split or of all; only their ids, names, splits and sizes are read."""
    for path in corpus.files(split):
        with parquet_file(path) as shard:
            for group in range(shard.num_row_groups):
                rows = shard.read_row_group(group, columns=["image_id", "uri", "split", "width", "height"]).to_pylist()
                for row in rows:
                    size = (row["width"], row["height"])
                    yield SourceEntry(row["image_id"], row["uri"], row["split"], path, group, size)


def choose(path: str, domain: str, split: Split | None, limit: int | None, default: Split) -> Selection:
    """Choose photographs deterministically: by split, then the first ``limit`` by image id.

    Ids are hashes of the content, so the first few are a random sample that stays the same. Of a corpus only the chosen
    ones are held in memory.

    Args:
        path: of a corpus (a folder with a manifest) or a plain folder of photographs, or its URI.
        domain: what a corpus must hold, ``hazy`` or ``clear``.
        split: as the user asked for; None means ``test`` in a corpus and ``default`` in a folder.
        limit: at most so many; None for all.

    Raises:
        ConfigError: nothing there, or a corpus of the other domain.
    """
    corpus, notes = is_corpus(path), list[str]()
    if corpus:
        opened = require_corpus(path, domain)
        found = opened.count()
    else:
        listed, notes = folder_entries(path)
        found = len(listed)

    def first(split: Split) -> list[SourceEntry]:
        if corpus:
            entries = corpus_entries(opened, None if split == "all" else split)
        else:
            entries = (e for e in listed if split in ("all", e.split))
        key = operator.attrgetter("image_id", "name")
        return sorted(entries, key=key) if limit is None else heapq.nsmallest(limit, entries, key)

    wanted: Split = split or ("test" if corpus else default)
    chosen = first(wanted)
    warnings: list[str] = []
    if not chosen:
        warnings.append(
            f"the {wanted} split of {path} is empty: all {found} photographs are evaluated, "
            "so a model may have been trained on them and the figures are not held out"
        )
        wanted = "all"
        chosen = first(wanted)
    fallback = bool(warnings)
    # A folder evaluated as a whole, unasked, is the user's own: nothing says that a model was trained on it.
    in_sample = any(e.split == "train" for e in chosen) and (corpus or fallback or split is not None)
    if in_sample and not fallback:
        warnings.append(f"photographs of the training split of {path} are evaluated: the figures are not held out")
    return Selection(path, found, wanted, in_sample, tuple(chosen), (*warnings, *notes))


_INPUT = ("_hazy", "-hazy", "_haze", "_input", "_lq", "_LQ")  # what names of inputs end with, and of outputs may lack
_SEPARATORS = "_-. "
_NAMED = 5  # files in an error message
_TRIED = 8  # endings at most
_HEAD = 1 << 18  # bytes of a file that nearly always hold its header


@dataclass(frozen=True)
class Folder:
    """Places of files below a folder by what they may be asked for: their relative path and their name, without the
    suffix.
    """

    by_path: Mapping[str, str]
    by_stem: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, places: Mapping[str, str]) -> Folder:
        """Index places by relative paths; of two with one path but for the suffix, the later is found by it."""
        by_path: dict[str, str] = {}
        by_stem: dict[str, tuple[str, ...]] = {}
        for name, place in places.items():
            path = PurePosixPath(printable(name))
            by_path[path.with_suffix("").as_posix()] = place
            by_stem[path.stem] = (*by_stem.get(path.stem, ()), place)
        return cls(by_path, by_stem)

    def at(self, name: str) -> str | None:
        """Find the file of a photograph's name by path alone."""
        return next((self.by_path[base] for base in bases(name) if base in self.by_path), None)

    def find(self, name: str, ending: str = "") -> str | None:
        """Find the file of a photograph's name with ``ending`` added, by path, else by a stem that only it has."""
        for base in bases(name):
            place = self.by_path.get(base + ending)
            if place is not None:
                return place
            found = self.by_stem.get(PurePosixPath(base).name + ending, ())
            if len(found) == 1:
                return found[0]
        return None


def bases(name: str) -> list[str]:
    """Return a photograph's name without its suffix, and also without an ending that marks it as the hazy one."""
    plain = PurePosixPath(name)
    if plain.suffix.lower() in IMAGE_SUFFIXES:
        plain = plain.with_suffix("")
    text = plain.as_posix()
    return [text, *(text.removesuffix(mark) for mark in _INPUT if text.endswith(mark))]


def endings(entries: Sequence[SourceEntry], folder: Folder) -> list[str]:
    """Return what files of the folder add to the photographs' names, the commonest first, nothing before anything."""
    counts: Counter[str] = Counter()
    stems = sorted(folder.by_stem)
    for entry in entries[:50]:
        for base in {PurePosixPath(b).name for b in bases(entry.name)}:
            counts.update(
                {s[len(base) :] for s in stems if s.startswith(base) and (s == base or s[len(base)] in _SEPARATORS)}
            )
    return sorted(counts, key=lambda ending: (ending != "", -counts[ending], ending))[:_TRIED]


def match_results(label: str, root: str, entries: Sequence[SourceEntry]) -> dict[str, str]:
    """Return the file of every photograph in a folder of another program's results, by image id.

    Raises:
        ConfigError: the folder is missing; results are missing, of another size, shared by two photographs, or several
            kinds fit. The first few files are named.
    """
    folder = Folder.of(_photographs(root, f"--results {label}=DIR names a folder of dehazed photographs")[0])
    tries = {e: {x.image_id: p for x in entries if (p := folder.find(x.name, e))} for e in endings(entries, folder)}
    whole = [ending for ending, found in tries.items() if len(found) == len(entries)]
    if len(whole) > 1 and whole[0] != "":
        raise ConfigError(f"{root} has several results for each photograph, ending in {whole}: part them by folders")
    best = tries[whole[0]] if whole else max(tries.values(), key=len, default={})
    _require_all(label, root, entries, best)
    _require_different(label, entries, best)
    _require_sizes(label, entries, best)
    return best


def _require_all(label: str, root: str, entries: Sequence[SourceEntry], found: Mapping[str, str]) -> None:
    missing = [entry.name for entry in entries if entry.image_id not in found]
    if missing:
        raise ConfigError(
            f"results '{label}': {root} lacks {len(missing)} of {len(entries)} photographs: {_list(missing)}; expected "
            "the photographs' names, perhaps with an ending that is the same for all"
        )


def _require_different(label: str, entries: Sequence[SourceEntry], found: Mapping[str, str]) -> None:
    counts = Counter(found.values())
    shared = [f"{e.name} ({place_name(found[e.image_id])})" for e in entries if counts[found[e.image_id]] > 1]
    if shared:
        raise ConfigError(f"results '{label}': several photographs would have the same result: {_list(shared)}")


def _require_sizes(label: str, entries: Sequence[SourceEntry], found: Mapping[str, str]) -> None:
    wrong = []
    for entry in entries:
        name, size = place_name(found[entry.image_id]), header_size(found[entry.image_id])
        if size is None:
            wrong.append(f"{name} (no picture that can be read)")
        elif entry.size is not None and size != entry.size:
            wrong.append(f"{name} is {size[0]}x{size[1]}, the photograph {entry.size[0]}x{entry.size[1]}")
    if wrong:
        raise ConfigError(f"results '{label}': {len(wrong)} files do not fit their photographs: {_list(wrong)}")


def header_size(place: str) -> tuple[int, int] | None:
    """Return upright width and height of a file, from its beginning where that is enough; None where it has none."""
    files, path = filesystem(place if is_uri(place) else str(local_path(place)))
    try:
        with files.open_input_stream(path) as stream:
            size = size_of(stream.read(_HEAD))
        return size or size_of(read_place(Location(place)))
    except OSError:
        return None


def match_references(entries: Sequence[SourceEntry], root: str) -> dict[str, str]:
    """Return the clear version by image id, for the photographs that have one.

    The same name with any suffix; with an ending that all share (``01_hazy`` and ``01_GT``); or what comes before the
    first underscore, as in RESIDE (``0001_0.8_0.2`` and ``0001``).

    Raises:
        ConfigError: the folder is missing, or cannot be read.
    """
    folder = Folder.of(_photographs(root, "--reference names a folder of clear photographs")[0])
    tries = endings(entries, folder) or [""]
    own = {entry.image_id: folder.at(entry.name) for entry in entries}
    exact = set(own.values())
    same = {e.image_id: own[e.image_id] or _unless(exact, folder.find(e.name)) for e in entries}
    taken = set(same.values())  # nobody else's, whatever their names end with or folders they lie in
    found: dict[str, str] = {}
    for entry in entries:
        others = _looser(entry.name, folder, tries)
        place = same[entry.image_id] or next((p for p in others if _unless(taken, p)), None)
        if place is not None:
            found[entry.image_id] = place
    return found


def require_different(references: Mapping[str, str], entries: Iterable[SourceEntry], root: str) -> None:
    """Refuse references that are the photographs themselves, as hazy and clear ones of one folder would be.

    Raises:
        ConfigError: names the first of them.
    """
    same = [entry.name for entry in entries if references.get(entry.image_id) == entry.path]
    if same:
        raise ConfigError(
            f"{len(same)} photographs would be their own references in {root}: {_list(same)}; put hazy and clear "
            "photographs into folders of their own"
        )


def clear_selection(root: str, places: Iterable[str]) -> Selection:
    """Select references as photographs of their own, each content once; unreadable ones fail where they are
    references.
    """
    entries: dict[str, SourceEntry] = {}
    for place in sorted(set(places)):
        try:
            data = read_place(Location(place))
        except OSError:
            continue
        image_id = image_id_of(data)
        entries.setdefault(image_id, SourceEntry(image_id, place_name(place), "test", place, size=size_of(data)))
    ordered = tuple(entries[image_id] for image_id in sorted(entries))
    return Selection(root, len(ordered), "all", False, ordered)


def _unless(taken: Collection[str | None], place: str | None) -> str | None:
    return None if place in taken else place


def _looser(name: str, folder: Folder, tries: Sequence[str]) -> Iterator[str | None]:
    """Yield candidates by each ending, then by the text before the first underscore; looked up as far as asked for."""
    yield from (folder.find(name, ending) for ending in tries if ending)
    yield folder.find(PurePosixPath(name).name.partition("_")[0])


def _list(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
