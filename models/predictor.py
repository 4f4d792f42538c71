"""Encoded photograph in, encoded dehazed photograph out: the one path of the HTTP service and the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models import inference, zoo
from models.config import ConfigError
from models.images import DEFAULT_LIMITS, ImageLimits, Photo, decode, encode, format_written, lost
from models.inference import goes_round
from models.options import DEFAULT_OPTIONS, DehazeOptions, InferenceConfig
from models.paths import name_of
from models.registry import SCHEME, RefusedError, download_model

_ROUND = "it says that it is a panorama of 360 degrees, and was dehazed as one whose ends meet"


@dataclass(frozen=True)
class DehazeInfo:
    """What an answer is: its format, size in pixels, and seconds of each part; ``notes``, plain sentences on what
    is not as the file had it; ``lost``, kinds of metadata that were not kept although the options ask for it;
    ``haze``, how much there was, 1 - mean transmission, None where the model gives none.
    """

    format: str
    width: int
    height: int
    decode_s: float
    model_s: float
    encode_s: float
    notes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    haze: float | None = None

    @property
    def verdict(self) -> str:
        """Return the haze in words; empty where it is not known."""
        return "" if self.haze is None else inference.verdict(self.haze)


def wrapping(photo: Photo, options: DehazeOptions) -> tuple[bool, tuple[str, ...]]:
    """Return whether the ends of a photograph meet, and what to say of it where its XMP decided."""
    if options.wrap is not None:
        return options.wrap, ()
    found = goes_round(photo)
    return found, (_ROUND,) if found else ()


def render(
    photo: Photo, hazy: Tensor, found: inference.Dehazed, options: DehazeOptions, clear: Tensor | None = None
) -> Photo:
    """Make the picture that the options ask for.

    Args:
        photo: the input.
        hazy: its pixels, (1, 3, H, W) in [0, 1].
        found: what the network made of them.
        options: controls and output.
        clear: what :func:`models.inference.controlled` makes of all that, where that is known.

    Raises:
        NoTransmissionError: there is none to show, or to go by.
    """
    if options.output == "transmission":
        if found.transmission is None:
            raise inference.NoTransmissionError(
                "this model gives no transmission; ask for output=image, or another model"
            )
        return replace(photo, alpha=None, icc=None).with_tensor(found.transmission.expand(-1, 3, -1, -1))
    if clear is None:
        clear = inference.controlled(hazy, found.scene, found.transmission, options)
    if options.output == "image":
        return photo.with_tensor(clear)
    # Side by side there are two pictures, and each has the alpha.
    both = replace(photo, alpha=None).with_tensor(torch.cat([hazy, clear], dim=3))
    return replace(both, alpha=None if photo.alpha is None else np.concatenate([photo.alpha, photo.alpha], axis=1))


class Predictor:
    """A loaded model. Calls from several threads are safe: the network is only read.

    Args:
        model: a name of :mod:`models.zoo`, a checkpoint folder or its URI, an ONNX file, or ``models:/name@alias``.
        tracking_uri: of the MLflow registry; None takes MLflow's own setting.
        threads: of torch in this process; None leaves them as they are, but for a container's quota of CPUs.
        limits: what is accepted; by default also raw files, which a service should not take.
        execution: precision and memory; the memory is for one photograph, so several threads need several times it.
        device: where the network is.
        allow_networks: packages whose networks the checkpoint may name; see :mod:`models.imports`.

    Raises:
        ConfigError: no such model, or one of a network that is not allowed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = zoo.DEFAULT,
        tracking_uri: str | None = None,
        threads: int | None = None,
        limits: ImageLimits | None = None,
        execution: InferenceConfig = inference.DEFAULT_CONFIG,
        device: str | torch.device = "cpu",
        allow_networks: Collection[str] = (),
    ) -> None:
        # torch counts the machine's processors, not those that a container may use.
        torch.set_num_threads(threads or min(torch.get_num_threads(), inference.local_cpus()))
        model = os.fspath(model)
        source = str(download_model(model, tracking_uri)) if model.startswith(SCHEME) else model
        self.name = model if model.startswith(SCHEME) else name_of(model)
        self._limits = limits if limits is not None else DEFAULT_LIMITS
        self._execution = execution
        self._device = torch.device(device)
        try:
            network = zoo.load(source, allow_networks).network
        except ConfigError as problem:
            if model.startswith(SCHEME):  # a version never changes
                raise RefusedError(f"{model}: {problem}") from problem
            raise
        self._network = network.to(self._device).to(memory_format=torch.channels_last)

    @property
    def network(self) -> torch.nn.Module:
        """Return the network, in evaluation mode."""
        return self._network

    @property
    def execution(self) -> InferenceConfig:
        """Return how the network is run."""
        return self._execution

    @property
    def limits(self) -> ImageLimits:
        """Return what is accepted."""
        return self._limits

    def run(self, hazy: Tensor, *, wrap: bool = False) -> inference.Dehazed:
        """Return scene and transmission, in the machine's memory, of N3HW in [0, 1]; ``wrap`` as in the options."""
        found = inference.dehaze(self._network, hazy.to(self._device), self._execution, wrap=wrap)
        return inference.Dehazed(found.scene.cpu(), None if found.transmission is None else found.transmission.cpu())

    def dehaze_photo(self, photo: Photo, options: DehazeOptions = DEFAULT_OPTIONS) -> Photo:
        """Dehaze a decoded photograph; its size, alpha, bit depth and profile stay.

        Raises:
            NoTransmissionError: the options ask for a transmission that the model does not give.
            MemoryError: there is not enough.
        """
        return self._dehazed(photo, options)[0]

    @inference.as_memory_errors()
    def _dehazed(self, photo: Photo, options: DehazeOptions) -> tuple[Photo, float | None]:
        """Return the dehazed photograph, and the amount of haze that was found."""
        wrap, _ = wrapping(photo, options)
        with torch.autocast(self._device.type, enabled=False):  # `execution` has the precision
            if options.output == "image" and not wrap:
                done = inference.dehaze_pixels(self._network, photo.pixels, self._execution, options, self._device)
                if done is not None:
                    return replace(photo, pixels=done[0]), done[1]
            hazy = photo.tensor()
            found = self.run(hazy, wrap=wrap)
            return render(photo, hazy, found, options), inference.haze_of(found.transmission)

    def dehaze_bytes(self, data: bytes, options: DehazeOptions = DEFAULT_OPTIONS) -> tuple[bytes, DehazeInfo]:
        """Dehaze an image file.

        Args:
            data: the file.
            options: how.

        Returns:
            the file to hand out, and what it is.

        Raises:
            ImageError: the file is too large, of another format, or damaged.
            NoTransmissionError, MemoryError: as :meth:`dehaze_photo`.
        """
        start = time.perf_counter()
        photo = decode(data, self._limits)
        decoded = time.perf_counter()
        clear, haze = self._dehazed(photo, options)
        dehazed = time.perf_counter()
        result = encode(clear, options.format, options.quality, options.keep_metadata)
        height, width = clear.pixels.shape[:2]
        return result, DehazeInfo(
            format=format_written(photo.format, options.format),
            width=width,
            height=height,
            decode_s=decoded - start,
            model_s=dehazed - decoded,
            encode_s=time.perf_counter() - dehazed,
            notes=photo.notes + wrapping(photo, options)[1],
            lost=lost(photo, options.format) if options.keep_metadata else (),
            haze=haze,
        )
