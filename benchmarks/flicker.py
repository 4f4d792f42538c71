"""How much a dehazed video flickers, and what smoothing it over time costs in fidelity.

``python -m benchmarks.flicker --clear DIR [--clips 6] [--frames 36] [--out DIR]`` makes clips from clear photographs: a
window of 640 x 512 pixels pans over each by 4 pixels a frame at 25 frames a second, under haze whose depth belongs to
the scene, with gaussian noise new in every frame, through H.264. The network sees the decoded frames.

Frame t minus frame t - 1, moved by the known 4 pixels, is zero for a steady picture. Its means over blocks of 64 x 64
pixels are what the eye sees flicker: brightness and color of large areas, not grain. Printed are, in levels of 0..255,

- ``flicker``: the root mean square of these block means over blocks, channels, frames and clips,
- ``whole``: the same of the mean over the whole frame,
- ``PSNR`` of the frames against the clear ones, in dB,
- ``time``: processor time of dehazing, without reading and writing, of that with all pixels,

for the hazy input, and for the frames as ``dehaze`` makes them, with smoothing over that many seconds: from all pixels
of all frames (``--exact``), and from a smaller version of some of them, the default.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from models import images
from models.haze import procedural_depth, scatter, transmission_from_depth
from models.images import to_tensor, to_uint8
from models.inference import DEFAULT_CONFIG, EXACT
from models.options import InferenceConfig, VideoOptions
from models.predictor import Predictor
from models.video import FrameDehazer, Pixels, Reader, VideoFrame

HEIGHT, WIDTH, STEP, RATE, BLOCK = 512, 640, 4, 25, 64
NOISE, CRF, BETA, AIRLIGHT = 3.0 / 255, 26, 0.9, 0.88
SMOOTHING = (0.0, 0.5)
WAYS = {"exact": EXACT, "default": DEFAULT_CONFIG}


def scenes(folder: Path, count: int, frames: int) -> list[Path]:
    """Return ``count`` photographs that are wide enough for all frames, spread evenly over the folder."""
    needed = WIDTH + STEP * (frames - 1)
    wide = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in images.IMAGE_SUFFIXES:
            with Image.open(path) as image:
                if image.width >= needed and image.height >= HEIGHT:
                    wide.append(path)
    if len(wide) < count:
        raise SystemExit(f"{folder} has {len(wide)} photographs of {needed}x{HEIGHT} pixels or more; expected {count}")
    return [wide[index * len(wide) // count] for index in range(count)]


def clip(photograph: Path, seed: int, frames: int, folder: Path) -> tuple[list[Tensor], list[Pixels]]:
    """Clear frames (1, 3, H, W), and hazy ones (H, W, 3) as they come out of a video file."""
    pixels = images.read_image(photograph).pixels
    scene = to_tensor(pixels)[..., :HEIGHT, : WIDTH + STEP * (frames - 1)]
    depth = procedural_depth(scene[0], seed).clamp(0, 1)[None]
    hazy = scatter(scene, transmission_from_depth(depth, BETA), AIRLIGHT)
    generator = torch.Generator().manual_seed(seed)
    path = folder / f"{seed}.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": str(CRF)})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        for index in range(frames):
            window = hazy[..., STEP * index : STEP * index + WIDTH]
            noisy = window + NOISE * torch.randn(window.shape, generator=generator)
            picture = av.VideoFrame.from_ndarray(to_uint8(noisy.clamp(0, 1))[0], format="rgb24").reformat(
                format="yuv420p", src_colorspace="ITU709", dst_colorspace="ITU709",
                src_color_range="JPEG", dst_color_range="MPEG",
            )  # fmt: skip
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    reader = Reader(path)
    decoded = [frame.pixels for frame in reader.packets() if isinstance(frame, VideoFrame)]
    reader.close()
    return [scene[..., STEP * i : STEP * i + WIDTH] for i in range(frames)], decoded


def dehazed(hazy: list[Pixels], model: str, execution: InferenceConfig, smoothing: float) -> tuple[list[Tensor], float]:
    """Dehaze the frames of a clip; (1, 3, H, W) each, and seconds of processor time."""
    predictor, dehazer = Predictor(model, execution=execution), FrameDehazer(VideoOptions(smoothing=smoothing))
    began, shown = time.process_time(), []
    for index, pixels in enumerate(hazy):
        frame = dehazer.opened(pixels, execution)
        found = None if frame.ask is None else predictor.run(frame.ask)
        shown.append(dehazer.shown(frame, found, index / RATE, pixels.dtype))
    return [to_tensor(pixels) for pixels in shown], time.process_time() - began


class Row:
    """Sums of one way to make frames, over all clips."""

    def __init__(self) -> None:
        self.flicker: list[float] = []
        self.whole: list[float] = []
        self.psnr: list[float] = []
        self.seconds = 0.0

    def add(self, found: list[Tensor], clear: list[Tensor], seconds: float = 0.0) -> None:
        """Measure a clip."""
        for before, now in itertools.pairwise(found):
            change = 255 * (now[..., :-STEP] - before[..., STEP:])
            blocks = F.avg_pool2d(change, BLOCK)
            self.flicker.append(float(blocks.pow(2).mean()))
            self.whole.append(float(change.mean(dim=(2, 3)).pow(2).mean()))
        self.seconds += seconds
        self.psnr += [float(-10 * (a - b).pow(2).mean().log10()) for a, b in zip(found, clear, strict=True)]

    def result(self) -> dict[str, float]:
        """Return the means over all that was measured: flicker of the picture and of the whole as root mean squares,
        PSNR in dB; and seconds.
        """
        return {
            "flicker": float(np.sqrt(np.mean(self.flicker))),
            "whole": float(np.sqrt(np.mean(self.whole))),
            "PSNR": float(np.mean(self.psnr)),
            "time": self.seconds,
        }


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clear", type=Path, required=True, help="folder of clear photographs")
    parser.add_argument("--model", default="corun-compact")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=36)
    parser.add_argument("--out", type=Path, help="folder for flicker.json and a picture of some frames")
    args = parser.parse_args()
    rows = {"hazy": Row()} | {f"{way}, {seconds:g}": Row() for way in WAYS for seconds in SMOOTHING}
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, photograph in enumerate(scenes(args.clear, args.clips, args.frames)):
            clear, hazy = clip(photograph, seed, args.frames, Path(folder))
            rows["hazy"].add([to_tensor(frame) for frame in hazy], clear)
            for (way, execution), seconds in itertools.product(WAYS.items(), SMOOTHING):
                found, took = dehazed(hazy, args.model, execution, seconds)
                rows[f"{way}, {seconds:g}"].add(found, clear, took)
                if seconds == 0.5:
                    shown.append(torch.cat([found[index] for index in (1, args.frames // 2, args.frames - 1)], dim=3))
            print(f"{seed + 1}/{args.clips} {photograph.name}", flush=True)
    results = {name: row.result() for name, row in rows.items()}
    whole = results["exact, 0"]["time"]
    print(f"{'frames':>14} {'flicker':>8} {'whole':>8} {'PSNR':>8} {'time':>8}")
    for name, values in results.items():
        values["time"] /= whole
        print(f"{name:>14} " + " ".join(f"{value:8.3f}" for value in values.values()))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "flicker.json").write_text(json.dumps(results, indent=1))
        Image.fromarray(to_uint8(torch.cat(shown[:4], dim=2))[0]).save(args.out / "flicker.png")


if __name__ == "__main__":
    main()
