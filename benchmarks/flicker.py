"""How much a dehazed video flickers, and what smoothing it over time costs in fidelity.

``python -m benchmarks.flicker --clear DIR [--clips 6] [--frames 48] [--out DIR]`` makes clips from clear photographs: a
window of 384 x 256 pixels pans over each by 2 pixels a frame at 25 frames a second, under haze whose depth belongs to
the scene, with gaussian noise new in every frame, through H.264. The network sees the decoded frames.

Frame t minus frame t - 1, moved by the known 2 pixels, is zero for a steady picture. Its means over blocks of 32 x 32
pixels are what the eye sees flicker: brightness and color of large areas, not grain. Printed are, in levels of 0..255,

- ``flicker``: the root mean square of these block means over blocks, channels, frames and clips,
- ``whole``: the same of the mean over the whole frame,
- ``PSNR`` of the frames against the clear ones, in dB,

for the hazy input, the frames as the network makes them, and these smoothed with several time constants.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
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
from models.predictor import Predictor
from models.video import Reader, Smoother, VideoFrame

HEIGHT, WIDTH, STEP, RATE, BLOCK = 256, 384, 2, 25, 32
NOISE, CRF, BETA, AIRLIGHT = 3.0 / 255, 26, 0.9, 0.88
SMOOTHING = (0.0, 0.25, 0.5, 1.0)


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


def clip(photograph: Path, seed: int, frames: int, folder: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Clear frames, and hazy ones as they come out of a video file; (1, 3, H, W) each."""
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
    decoded = [to_tensor(frame.pixels) for frame in reader.packets() if isinstance(frame, VideoFrame)]
    reader.close()
    return [scene[..., STEP * i : STEP * i + WIDTH] for i in range(frames)], decoded


class Row:
    """Sums of one way to make frames, over all clips."""

    def __init__(self) -> None:
        self.flicker: list[float] = []
        self.whole: list[float] = []
        self.psnr: list[float] = []

    def add(self, found: list[Tensor], clear: list[Tensor]) -> None:
        """Measure a clip."""
        for before, now in itertools.pairwise(found):
            change = 255 * (now[..., :-STEP] - before[..., STEP:])
            blocks = F.avg_pool2d(change, BLOCK)
            self.flicker.append(float(blocks.pow(2).mean()))
            self.whole.append(float(change.mean(dim=(2, 3)).pow(2).mean()))
        self.psnr += [float(-10 * (a - b).pow(2).mean().log10()) for a, b in zip(found, clear, strict=True)]

    def result(self) -> dict[str, float]:
        """Return the means over all that was measured: flicker of the picture and of the whole as root mean squares,
        and PSNR in dB.
        """
        return {
            "flicker": float(np.sqrt(np.mean(self.flicker))),
            "whole": float(np.sqrt(np.mean(self.whole))),
            "PSNR": float(np.mean(self.psnr)),
        }


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clear", type=Path, required=True, help="folder of clear photographs")
    parser.add_argument("--model", default="corun-compact")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--out", type=Path, help="folder for flicker.json and a picture of some frames")
    args = parser.parse_args()
    predictor = Predictor(args.model)
    rows = {name: Row() for name in ("hazy", *map(str, SMOOTHING), "clear")}
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, photograph in enumerate(scenes(args.clear, args.clips, args.frames)):
            clear, hazy = clip(photograph, seed, args.frames, Path(folder))
            made = [predictor.run(frame).scene for frame in hazy]
            rows["hazy"].add(hazy, clear)
            rows["clear"].add(clear, clear)
            for seconds in SMOOTHING:
                smooth = Smoother(seconds)
                found = [
                    smooth(frame, scene, index / RATE)
                    for index, (frame, scene) in enumerate(zip(hazy, made, strict=True))
                ]
                rows[str(seconds)].add(found, clear)
                if seconds in (0.0, 0.5):
                    shown.append(torch.cat([found[index] for index in (1, args.frames // 2, args.frames - 1)], dim=3))
            print(f"{seed + 1}/{args.clips} {photograph.name}", flush=True)
    results = {name: row.result() for name, row in rows.items()}
    print(f"{'frames':>12} {'flicker':>8} {'whole':>8} {'PSNR':>8}")
    for name, values in results.items():
        label = f"smoothed {name}" if name[0].isdigit() else name
        print(f"{label:>12} " + " ".join(f"{value:8.3f}" for value in values.values()))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "flicker.json").write_text(json.dumps(results, indent=1))
        Image.fromarray(to_uint8(torch.cat(shown[:4], dim=2))[0]).save(args.out / "flicker.png")


if __name__ == "__main__":
    main()
