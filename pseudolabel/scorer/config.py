"""What the scorer is configured by. No torch, so that help is quick."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from models.config import Settings


class IqaConfig(Settings):
    """MUSIQ in place of the quality prompts.

    Attributes:
        weights: file of its weights, such as pyiqa's ``musiq_koniq_ckpt-e95806b9.pth``; nothing is downloaded.
        scale: the scores that count as 0 and as 1. The weights for KonIQ-10k, SPAQ and PaQ-2-PiQ rate from 0 to 100.
    """

    weights: str
    scale: tuple[float, float] = (0.0, 100.0)

    @field_validator("scale")
    @classmethod
    def _rises(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError("expected a lower and a higher score")
        return scale


class Prompts(Settings):
    """What the scorer asks. A group's probability is the sum over its prompts.

    Attributes:
        hazy: prompts of a hazy photograph.
        clear: prompts of a clear one; clearness is their probability against ``hazy``.
        good: prompts of a good photograph.
        bad: prompts of a bad one; quality is the probability of ``good`` against them.
    """

    hazy: tuple[str, ...] = ("a hazy photo",)
    clear: tuple[str, ...] = ("a clear photo",)
    good: tuple[str, ...] = ("a good photo",)
    bad: tuple[str, ...] = ("a bad photo",)


class ScorerConfig(Settings):
    """Which CLIP, and how it looks at an image.

    Attributes:
        architecture: an ``open_clip`` name (``ViT-B-32``), ``hf-hub:org/repo`` or ``local-dir:/path``; a packaged
            name (``clip-compact``) and a plain folder path are short for ``local-dir:``; or ``daclip``.
        pretrained: tag or weights file for an architecture name, the released file for ``daclip``; not used with a
            folder or a hub name.
        precision: of the image tower. Texts and similarities stay float32.
        resolution: side in pixels that the whole image is resized to; None takes the architecture's own.
        trust_rule: whether trust is the ``mean`` of clearness and quality at a place, or their ``product``.
        block: side in pixels of the blocks of the trust map (32 in the paper).
        block_resolution: side that a block is resized to before it is encoded; None takes twice the block for
            convolutional towers and ``resolution`` for transformers, which take one size only.
        block_batch: how many blocks are encoded at once; bounds memory.
        prompts: None takes the words that the architecture was trained with.
        iqa: a metric that gives quality in place of the prompts; see :mod:`pseudolabel.scorer.musiq`.
    """

    architecture: str = "clip-compact"
    pretrained: str | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    resolution: int | None = Field(None, ge=32)
    trust_rule: Literal["mean", "product"] = "mean"
    block: int = Field(32, ge=8)
    block_resolution: int | None = Field(None, ge=32)
    block_batch: int = Field(256, ge=1)
    prompts: Prompts | None = None
    iqa: IqaConfig | None = None
