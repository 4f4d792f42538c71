"""`dehaze apply` on videos: what is kept, what is refused, what is left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.apply import main
from pipelines.video_io import Frame, Reader, Writer

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
) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE, options={"crf": "1"} if "264" in codec else {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = BASE
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
            picture.pts, picture.time_base = pts, BASE
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


def read(path: Path) -> tuple[list[Frame], list[bytes], Reader]:
    reader = Reader(path)
    found = list(reader.packets())
    pictures = [item for item in found if isinstance(item, Frame)]
    sound = [bytes(item) for item in found if not isinstance(item, Frame)]
    return pictures, sound, reader


def apply(*words: object) -> int:
    return main([*map(str, words), "--model", "dcp"])


def test_times_sound_and_colours_are_kept(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames, sound=True)
    assert apply(clip, tmp_path / "out.mp4", "--strength", 0, "--crf", 1) == 0
    before, sound, source = read(clip)
    after, copied, result = read(tmp_path / "out.mp4")
    assert [round(frame.time, 4) for frame in after] == [round(frame.time, 4) for frame in before]
    assert [round(frame.time * 12_800) for frame in after] == list(STEPS)
    assert copied == sound
    assert len(sound) > 10
    assert result.colour == source.colour
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


def test_grey_frames_stay_grey(tmp_path: Path, frames: list[NDArray[np.uint8]]) -> None:
    grey = [np.repeat(frame[:, :, 1:2], 3, axis=2) for frame in frames]
    clip = make_video(tmp_path / "clip.mp4", grey, pix_fmt="yuv444p")
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
def test_other_colours(tmp_path: Path, frames: list[NDArray[np.uint8]], space: int, full: bool, pix_fmt: str) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames, space=space, full=full, pix_fmt=pix_fmt)
    first, _, _ = read(clip)
    smooth_error = np.abs(first[0].pixels.astype(int) - frames[0]).mean()
    assert smooth_error < 6.0, "the reader understands the matrix and the range"
    assert apply(clip, tmp_path / "out.mkv", "--strength", 0, "--crf", 1) == 0
    second, _, result = read(tmp_path / "out.mkv")
    assert (result.colour.space, result.colour.range) == (space, 2 if full else 1)
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
    assert "1 damaged packets" in capsys.readouterr().err
    assert len(read(tmp_path / "out.mp4")[0]) == len(STEPS) - 1


def test_an_interrupted_video_leaves_nothing(
    tmp_path: Path, frames: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames)
    write = Writer.write

    def interrupted(self: Writer, frame: Frame) -> None:
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
    (tmp_path / "there.mp4").touch()
    for words, message in (
        ((clip, clip), "is the input"),
        ((clip, tmp_path / "there.mp4"), "--overwrite replaces it"),
        ((clip, tmp_path / "out.gif"), "cannot write a video out.gif"),
        ((tmp_path / "text.mp4", tmp_path / "out.mp4"), "cannot be read as a video"),
        ((tmp_path / "nothing.mp4", tmp_path / "out.mp4"), "cannot be read as a video"),
        ((hdr, tmp_path / "out.mp4"), "is HDR (PQ)"),
        ((clip, tmp_path / "out.mp4", "--codec", "no-such"), "no encoder 'no-such'"),
        ((clip, tmp_path / "out.mp4", "--smoothing", -1), "smoothing"),
    ):
        assert apply(*words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
    assert not (tmp_path / "out.mp4").exists()
    assert not list(tmp_path.glob(".*"))


def test_without_pyav_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['av'] = None; from pipelines.apply import main;"
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
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
