"""`dehaze apply` on videos: what is kept, what is refused, what is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.config import ConfigError
from models.options import VideoOptions
from models.video import Pixels, Reader, VideoFrame, Writer, rewrite_video
from pipelines.dehaze.apply import main

Photo = Callable[..., NDArray[np.uint8]]
RATE, BASE = 25, Fraction(1, 12_800)
STEPS = (0, 512, 1024, 2048, 2560, 4096, 4608, 5120)  # pts: frames 3 and 5 are late
HEIGHT, WIDTH = 64, 96


def make_video(
    path: Path,
    frames: list[NDArray[Any]],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    steps: tuple[int, ...] = STEPS,
    sound: bool = False,
    rotation: int = 0,
    space: int = 1,
    full: bool = False,
    transfer: int = 1,
    options: dict[str, str] | None = None,
    base: Fraction = BASE,
    flags: dict[str, str] | None = None,
    gop: int | None = None,
) -> Path:
    with av.open(str(path), "w", options=flags or {}) as container:
        chosen = ({"crf": "1"} if "264" in codec else {}) | (options or {}) | ({"g": str(gop)} if gop else {})
        stream: Any = container.add_stream(codec, rate=RATE, options=chosen)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = space, space, transfer
        context.color_range = 2 if full else 1
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = container.add_stream("aac", rate=48_000) if sound else None
        if sound:
            audio.layout = "mono"
        matrix, span = ("ITU709" if space == 1 else "ITU601"), ("JPEG" if full else "MPEG")
        for pixels, pts in zip(frames, steps, strict=True):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=pix_fmt, src_colorspace=matrix, dst_colorspace=matrix,
                src_color_range="JPEG", dst_color_range=span,
            )  # fmt: skip
            picture.pts, picture.time_base = pts, base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        for start in range(0, 16 * 1024 if sound else 0, 1024):
            tone = np.sin(np.arange(start, start + 1024) * 0.06).astype(np.float32)[None]
            block = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = 48_000, start, Fraction(1, 48_000)
            container.mux(audio.encode(block))
        if sound:
            container.mux(audio.encode(None))
    return path


@pytest.fixture
def frames(photo: Photo) -> list[NDArray[np.uint8]]:
    wide = photo(0, HEIGHT, WIDTH + 8, hazy=True)
    return [np.ascontiguousarray(wide[:, index : index + WIDTH]) for index in range(len(STEPS))]


def read(path: Path) -> tuple[list[VideoFrame], list[bytes], Reader]:
    reader = Reader(path)
    found = list(reader.packets())
    pictures = [item for item in found if isinstance(item, VideoFrame)]
    sound = [bytes(item) for item in found if not isinstance(item, VideoFrame)]
    return pictures, sound, reader


def apply(*words: object) -> int:
    return main([*map(str, words), "--model", "dcp"])


def test_the_next_frame_is_read_while_one_is_changed(
    tmp_path: Path, frames: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ahead, packets = threading.Semaphore(0), Reader.packets

    def counted(reader: Reader) -> Iterator[Any]:
        for packet in packets(reader):
            yield packet
            read_ahead.release()  # the next one is asked for

    def change(frame: VideoFrame) -> Pixels:
        assert frame.time > 0 or read_ahead.acquire(timeout=20)
        return frame.pixels

    monkeypatch.setattr(Reader, "packets", counted)
    clip = make_video(tmp_path / "clip.mp4", frames)
    rewrite_video(clip, tmp_path / "out.mp4", VideoOptions(), change, lambda frames: None)
    assert len(read(tmp_path / "out.mp4")[0]) == len(frames)


def test_times_sound_and_colors_are_kept(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames, sound=True)
    assert apply(clip, tmp_path / "out.mp4", "--strength", 0, "--crf", 1) == 0
    before, sound, source = read(clip)
    after, copied, result = read(tmp_path / "out.mp4")
    assert [round(frame.time, 4) for frame in after] == [round(frame.time, 4) for frame in before]
    assert [round(frame.time * 12_800) for frame in after] == list(STEPS)
    assert copied == sound
    assert len(sound) > 10
    assert result.color == source.color
    for one, two in zip(before, after, strict=True):
        assert np.abs(one.pixels.astype(int) - two.pixels).mean() < 2.0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_frames_are_dehazed_and_calmed(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames)
    assert apply(clip) == 0
    before, _, _ = read(clip)
    after, _, _ = read(tmp_path / "clip_dehazed.mp4")
    assert len(after) == len(before)
    assert after[3].pixels.std() > 1.2 * before[3].pixels.std()
    assert apply(clip, tmp_path / "raw.mp4", "--smoothing", 0) == 0
    assert (tmp_path / "raw.mp4").read_bytes() != (tmp_path / "clip_dehazed.mp4").read_bytes()


def test_gray_frames_stay_gray(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    gray = [np.repeat(frame[:, :, 1:2], 3, axis=2) for frame in frames]
    clip = make_video(tmp_path / "clip.mp4", gray, pix_fmt="yuv444p")
    out = tmp_path / "out.mp4"
    assert main([str(clip), str(out), "--model", "corun-compact", "--crf", "0"]) == 0
    before, _, _ = read(clip)
    after, _, _ = read(out)
    for frame in (*before, *after):
        assert np.ptp(frame.pixels.astype(int), axis=2).max() <= 1
    assert np.abs(after[2].pixels.astype(int) - before[2].pixels).max() > 9  # it was dehazed


@pytest.mark.parametrize(
    ("space", "full", "pix_fmt"), [(6, False, "yuv420p"), (1, True, "yuvj420p"), (1, False, "yuv444p")]
)
def test_other_colors(tmp_path: Path, frames: list[NDArray[np.uint8]], space: int, full: bool, pix_fmt: str) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames, space=space, full=full, pix_fmt=pix_fmt)
    first, _, _ = read(clip)
    smooth_error = np.abs(first[0].pixels.astype(int) - frames[0]).mean()
    assert smooth_error < 6.0, "the reader understands the matrix and the range"
    assert apply(clip, tmp_path / "out.mkv", "--strength", 0, "--crf", 1) == 0
    second, _, result = read(tmp_path / "out.mkv")
    assert (result.color.space, result.color.range) == (space, 2 if full else 1)
    assert np.abs(first[0].pixels.astype(int) - second[0].pixels).mean() < 2.0


def test_a_turned_video_comes_out_upright(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames, rotation=-90)
    pictures, _, _ = read(clip)
    assert pictures[0].pixels.shape == (WIDTH, HEIGHT, 3)
    upright = np.rot90(frames[0], -1).astype(int)
    assert np.abs(pictures[0].pixels - upright).mean() < 6.0
    assert apply(clip, tmp_path / "out.mp4", "--strength", 0) == 0
    again, _, result = read(tmp_path / "out.mp4")
    assert again[0].pixels.shape == (WIDTH, HEIGHT, 3)
    assert (result.stream.height, result.stream.width) == (WIDTH, HEIGHT)


def test_odd_sizes(tmp_path: Path, photo: Photo) -> None:
    clip = make_video(tmp_path / "clip.mkv", [photo(1, 63, 95)] * 2, codec="ffv1", pix_fmt="yuv444p", steps=(0, 512))
    assert apply(clip, tmp_path / "out.mp4") == 0
    pictures, _, _ = read(tmp_path / "out.mp4")
    assert pictures[0].pixels.shape == (63, 95, 3)


@pytest.mark.parametrize(("pix_fmt", "written"), [("yuv410p", "yuv420p"), ("yuv444p16le", "yuv420p10le")])
def test_a_format_that_the_encoder_has_not(
    tmp_path: Path, frames: list[NDArray[np.uint8]], pix_fmt: str, written: str
) -> None:
    clip = make_video(tmp_path / "clip.mkv", frames, codec="ffv1", pix_fmt=pix_fmt)
    assert apply(clip, tmp_path / "out.mkv") == 0
    assert read(tmp_path / "out.mkv")[2].stream.codec_context.pix_fmt == written


def test_webm_gets_its_own_codec(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames)
    assert apply(clip, tmp_path / "out.webm") == 0
    assert read(tmp_path / "out.webm")[2].stream.codec_context.name in ("vp9", "libvpx-vp9")


def test_damage_costs_its_frames_only(
    tmp_path: Path, frames: list[NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_video(tmp_path / "clip.mov", frames, codec="png", pix_fmt="rgb24")
    data = bytearray(clip.read_bytes())
    place = data.find(b"\x89PNG", len(data) // 2)
    data[place : place + 60] = bytes(60)
    clip.write_bytes(data)
    assert apply(clip, tmp_path / "out.mp4") == 1
    assert "is damaged: of 1 packets the frame is missing" in capsys.readouterr().err
    assert len(read(tmp_path / "out.mp4")[0]) == len(STEPS) - 1


def test_an_interrupted_video_leaves_nothing(
    tmp_path: Path, frames: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames)
    write = Writer.write

    def interrupted(self: Writer, frame: VideoFrame) -> None:
        if frame.pts > STEPS[3]:
            raise KeyboardInterrupt
        write(self, frame)

    monkeypatch.setattr(Writer, "write", interrupted)
    assert apply(clip, tmp_path / "out.mp4") == 130
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_what_is_refused_is_one_line(
    tmp_path: Path, frames: list[NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames)
    hdr = make_video(tmp_path / "hdr.mp4", frames, transfer=16)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    (tmp_path / "there.mp4").touch()
    for words, message in (
        ((clip, clip), "is the input"),
        ((clip, tmp_path / "there.mp4"), "--overwrite replaces it"),
        ((clip, tmp_path / "out.gif"), "cannot write a video out.gif"),
        ((tmp_path / "text.mp4", tmp_path / "out.mp4"), "cannot be read as a video"),
        ((tmp_path / "list.mp4", tmp_path / "out.mp4"), "cannot be read as a video"),
        ((tmp_path / "nothing.mp4", tmp_path / "out.mp4"), "cannot be read as a video"),
        ((hdr, tmp_path / "out.mp4"), "is HDR (PQ)"),
        ((clip, tmp_path / "out.mp4", "--codec", "no-such"), "the usual one is libx264"),
        ((clip, tmp_path / "out.mp4", "--format", "png"), "--format is for photographs"),
        ((clip, tmp_path / "out.mp4", "--smoothing", -1), "smoothing"),
    ):
        assert apply(*words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
    assert not (tmp_path / "out.mp4").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_is_refused_is_closed(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    hdr = make_video(tmp_path / "hdr.mp4", frames, transfer=16)
    with pytest.raises(ConfigError, match="HDR"):  # the error holds on to the reader
        Reader(hdr)
    opened = [Path(link).readlink() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert hdr not in opened


def test_without_pyav_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['av'] = None; from pipelines.dehaze.apply import main;"
        f"sys.exit(main([{str(tmp_path / 'clip.mp4')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'ray-dehaze[video]'" in done.stderr


def test_sound_that_does_not_fit_is_refused(
    tmp_path: Path, frames: list[NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames, sound=True)
    assert apply(clip, tmp_path / "out.webm") == 2
    error = capsys.readouterr().err
    assert "out.webm" in error
    assert "such as .mkv" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def moving(count: int = 12, height: int = HEIGHT, width: int = WIDTH) -> list[NDArray[np.uint8]]:
    """Frames that compress badly, so that a file's bytes are spread over them."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


EVEN = tuple(range(0, 12 * 512, 512))


class TestAFileThatEndsEarly:
    """Cut at two thirds: exit code 1, and how many frames of how many."""

    @staticmethod
    def cut(path: Path, share: float = 2 / 3) -> Path:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return path

    @pytest.mark.parametrize(
        ("name", "codec", "options"),
        [
            ("clip.mkv", "libx264", {}),
            ("clip.webm", "libvpx-vp9", {}),
            ("clip.flv", "flv1", {}),
            ("clip.avi", "mpeg4", {}),
            ("clip.mp4", "libx264", {"movflags": "faststart"}),
            ("clip.mov", "libx264", {"movflags": "faststart"}),
        ],
    )
    def test_of_known_length(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, codec: str, options: dict[str, str]
    ) -> None:
        base = Fraction(1, RATE) if name == "clip.avi" else BASE  # of which an AVI has one frame each
        steps = tuple(range(12)) if name == "clip.avi" else EVEN
        clip = make_video(tmp_path / name, moving(), codec=codec, steps=steps, base=base, flags=options)
        assert apply(clip, tmp_path / "whole.mp4", "--smoothing", 0) == 0
        assert len(read(tmp_path / "whole.mp4")[0]) == 12
        capsys.readouterr()
        self.cut(clip)
        assert apply(clip, tmp_path / "out.mp4", "--smoothing", 0) == 1
        count = len(read(tmp_path / "out.mp4")[0])
        assert 0 < count < 12
        error = capsys.readouterr().err
        assert f"{clip} ends early: {count} of 12 frames could be read and were dehazed" in error

    def test_in_the_middle_of_a_fragment_or_packet(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = {"movflags": "frag_keyframe+empty_moov"}
        for name, options in (("clip.mp4", flags), ("clip.ts", {})):
            clip = make_video(tmp_path / name, moving(), steps=EVEN, flags=options, gop=4)
            assert apply(clip, tmp_path / "out.mp4", "--overwrite") == 0
            self.cut(clip)
            assert apply(clip, tmp_path / "out.mp4", "--overwrite") == 1, name
            assert f"{clip} is damaged" in capsys.readouterr().err

    @pytest.mark.parametrize("lost", [10, 400], ids=["within its last packet", "before that"])
    def test_sound_that_is_cut(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: int) -> None:
        clip = make_video(tmp_path / "clip.mp4", moving(2), steps=(0, 512), sound=True, flags={"movflags": "faststart"})
        assert apply(clip, tmp_path / "out.mp4") == 0
        self.cut(clip, 1 - lost / clip.stat().st_size)
        assert apply(clip, tmp_path / "out.mp4", "--overwrite") == 1
        assert f"{clip} ends early: its audio is shorter than the file says" in capsys.readouterr().err

    def test_an_error_of_reading_ends_it_as_well(
        self, tmp_path: Path, frames: list[NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        clip = make_video(tmp_path / "clip.mp4", frames)
        demuxed = Reader._demuxed

        class Failing:
            def __init__(self, container: Any) -> None:
                self.container = container

            def __getattr__(self, name: str) -> Any:
                return getattr(self.container, name)

            def demux(self) -> Any:
                for number, packet in enumerate(self.container.demux()):
                    if number == 4:
                        raise av.error.OSError(5, "Input/output error")
                    yield packet

        def failing(self: Reader) -> Any:
            self.container = Failing(self.container)
            return demuxed(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reader, "_demuxed", failing)
            assert apply(clip, tmp_path / "out.mp4") == 1
        assert "ends early (Input/output error)" in capsys.readouterr().err


def comb(pixels: NDArray[Any]) -> float:
    """How much each second line differs from those around it."""
    gray = pixels.astype(float).mean(axis=2)
    return float(np.abs(gray[1:-1:2] - (gray[:-2:2] + gray[2::2]) / 2).mean())


def test_interlaced_frames_become_whole_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def moment(time: int) -> NDArray[np.uint8]:
        picture = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
        picture[:, 4 * time : 4 * time + 20] = 200
        return picture

    fields = [moment(2 * index) for index in range(8)]
    for index, picture in enumerate(fields):
        picture[1::2] = moment(2 * index + 1)[1::2]
    clip = make_video(tmp_path / "clip.mkv", fields, options={"x264-params": "tff=1"})
    assert apply(clip, tmp_path / "out.mkv", "--strength", 0, "--crf", 1) == 0
    pictures, _, _ = read(tmp_path / "out.mkv")
    assert [round(picture.time, 2) for picture in pictures] == [round(step / 12_800, 2) for step in STEPS]
    assert comb(fields[3]) > 5
    assert max(comb(picture.pixels) for picture in pictures) < 2
    assert "is interlaced: whole frames were made of 8 frames" in capsys.readouterr().err
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert not any(frame.interlaced_frame for frame in container.decode(video=0))


def test_progressive_frames_are_not_touched(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    clip = make_video(tmp_path / "clip.mkv", frames)
    pictures, _, reader = read(clip)
    with av.open(str(clip)) as container:
        decoded = [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
    assert reader.interlaced == 0
    assert all(np.abs(one.pixels.astype(int) - two).max() <= 1 for one, two in zip(pictures, decoded, strict=True))


def rich(path: Path, clip: Path) -> Path:
    """A copy of a clip with much beside it: what the container takes."""
    matroska = path.suffix == ".mkv"
    with av.open(str(clip)) as source, av.open(str(path), "w") as result:
        streams = {stream.index: result.add_stream_from_template(stream) for stream in source.streams}
        sound: Any = streams[1]
        sound.metadata.update({"language": "deu", "title": "Kommentar"})
        sound.disposition = av.stream.Disposition.comment
        cover: Any = result.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        second = Fraction(1, 1000)
        result.set_chapters(
            [{"id": n, "start": 100 * n, "end": 100 * n + 100, "time_base": second, "metadata": {"title": f"part {n}"}}
             for n in range(2)]
        )  # fmt: skip
        result.metadata["title"] = "secret"
        if matroska:
            result.add_attachment("font.ttf", "application/x-truetype-font", b"font" * 100)
            result.metadata["timecode"] = "01:00:00:00"
        else:
            cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        result.mux(cover.encode(picture.reformat(format="yuvj420p")))
        result.mux(cover.encode(None))
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                result.mux(packet)
    return path


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("rich.mp4", "out.mp4", "cover picture"),
        ("rich.mp4", "out.mkv", "cover picture"),
        ("rich.mkv", "out.mkv", "further video stream"),
        ("rich.mkv", "out.mp4", "further video stream, attached file, timecode (01:00:00:00)"),
    ],
)
def test_what_lies_beside_the_pictures_is_kept_or_named(
    tmp_path: Path,
    frames: list[NDArray[np.uint8]],
    capsys: pytest.CaptureFixture[str],
    source: str,
    target: str,
    named: str,
) -> None:
    clip = rich(tmp_path / source, make_video(tmp_path / "clip.mp4", frames, sound=True))
    assert apply(clip, tmp_path / target) == 0
    assert f"left out of the result: {named}\n" in capsys.readouterr().err
    with av.open(str(tmp_path / target)) as result:
        assert [chapter["metadata"]["title"] for chapter in result.chapters()] == ["part 0", "part 1"]
        (sound,) = result.streams.audio
        assert sound.metadata["language"] == "deu"
        assert sound.disposition & av.stream.Disposition.comment
        assert "secret" not in result.metadata.values()
        if target == "out.mkv" and source == "rich.mkv":
            (font,) = result.streams.attachments
            assert font.metadata["filename"] == "font.ttf"
            assert result.metadata["TIMECODE"] == "01:00:00:00"


def test_where_a_video_goes_and_its_date(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    clip = make_video(tmp_path / "a%d:b\n.mts", frames, codec="mpeg2video", base=Fraction(1, 25), steps=tuple(range(8)))
    os.utime(clip, ns=(10**18, 10**18))
    for target, made in (
        (f"{tmp_path}/new/", "new/a%d:b\n.mp4"),
        (f"{tmp_path}/other", "other/a%d:b\n.mp4"),
        (str(tmp_path / os.fsdecode(b"\xff.mkv")), os.fsdecode(b"\xff.mkv")),
        (f"{tmp_path}/{'n' * 251}.mkv", f"{'n' * 251}.mkv"),
    ):
        assert apply(clip, target, "--keep-dates") == 0
        assert (tmp_path / made).stat().st_mtime_ns == 10**18
    assert main([os.path.relpath(clip), "--model", "dcp", "--dry-run"]) == 0


def test_what_a_disk_refuses_is_told(
    tmp_path: Path, frames: list[NDArray[np.uint8]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames)
    (tmp_path / "file").touch()
    assert apply(clip, tmp_path / "file" / "out.mp4") == 2
    assert apply(clip, tmp_path / ("n" * 300 + ".mp4")) == 2
    assert apply(clip, "s3://bucket/out.mp4") == 2
    errors = capsys.readouterr().err.splitlines()
    assert [error.startswith("error: ") for error in errors] == [True] * 3
    assert "File name too long" in errors[1]
    assert "is not on this machine" in errors[2]

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert apply(clip, tmp_path / "out.mp4") == 3
    assert "Read-only file system" in (error := capsys.readouterr().err)
    assert "free some space" not in error


def test_too_little_memory_is_one_line(
    tmp_path: Path, frames: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hungry(*_: object, **__: object) -> None:
        raise MemoryError("not enough memory to dehaze the image; reduce its size")

    monkeypatch.setattr("models.predictor.Predictor.run", hungry)
    clip = make_video(tmp_path / "clip.mp4", frames)
    assert apply(clip, tmp_path / "out.mp4") == 1
    assert f"failed: {clip}: not enough memory to dehaze the image" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_folder_called_like_a_video_is_a_folder(tmp_path: Path, photo: Photo) -> None:
    folder = tmp_path / "holiday.mov"
    folder.mkdir()
    Image.fromarray(photo(0)).save(folder / "a.jpg")
    assert apply(folder, tmp_path / "out") == 0
    assert (tmp_path / "out" / "a.jpg").exists()


def test_a_video_that_goes_round(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames)
    for name, more in (("plain.mp4", []), ("round.mp4", ["--wrap"])):
        assert apply(clip, tmp_path / name, "--smoothing", 0, *more) == 0
    plain, wide = (read(tmp_path / name)[0][0].pixels.astype(int) for name in ("plain.mp4", "round.mp4"))
    assert np.abs(plain - wide)[:, :4].mean() > 1


def test_controls_and_borders(
    tmp_path: Path, frames: list[NDArray[np.uint8]], capsys: pytest.CaptureFixture[str]
) -> None:
    barred = [np.pad(frame, ((16, 16), (0, 0), (0, 0))) for frame in frames]
    barred[3] = barred[3] // 16  # a dark moment, in which the edges of the bars are not seen
    clip = make_video(tmp_path / "clip.mp4", barred)
    out = tmp_path / "out.mp4"
    assert apply(clip, out, "--strength", -0.5, "--keep-exposure", "--distance", 0.2, "--protect", "--crf", 1) == 0
    assert "haze (0." in capsys.readouterr().err
    found = [frame.pixels for frame in read(out)[0]]
    assert len(found) == len(frames)
    assert max(int(np.r_[pixels[:13], pixels[-13:]].max()) for pixels in found) <= 3
    assert float(np.std(found[0][16:-16])) < float(np.std(frames[0])) - 1  # hazier
