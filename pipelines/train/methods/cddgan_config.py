"""What CDD-GAN's training can be told; where the paper is silent, defaults are those of NEGCUT's published program."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.config import Settings
from models.networks import ContrastConfig, DiscriminatorConfig


class CddganWeights(Settings):
    """Weights of the losses. CycleGAN has 10 and 5 for cycle and identity on images in [-1, 1]; these are in [0, 1].

    Attributes:
        gan: of the least-squares loss against the discriminators.
        cycle: of the distance between an image and what both generators make of it in turn.
        identity: of the distance between an image and what the generator of its own domain makes of it.
        contrastive: of the contrast; 0 trains without it and logs its figures all the same.
        diversity: of the spread of the negatives, in the loss of the negative generators.
    """

    gan: float = Field(1.0, ge=0)
    cycle: float = Field(20.0, ge=0)
    identity: float = Field(10.0, ge=0)
    contrastive: float = Field(1.0, ge=0)
    diversity: float = Field(1.0, ge=0)


class CddganTraining(Settings):
    """All of CDD-GAN's training that is not the generator, the crops or the loop.

    Attributes:
        init_gain: of Xavier's initialization of generators, discriminators and projection heads, of the generator that
            is exported unless ``init`` gives it; null leaves PyTorch's.
        generator_rate, discriminator_rate, negative_rate: learning rates of Adam.
        beta: Adam's first moment.
        constant_share: share of the steps at the full rate; then it falls in a line to 0.
        clip_norm: longest gradient of each player; null for any length.
        ema: momentum of the averaged generator that is exported; 0 exports the generator itself.
        history: images in each discriminator's history buffer.
        diagnose_every: steps between two measurements of the losses' gradients at the encoder, each as dear as a step
            or two; 0 for none. They are seen where they fall on ``train.log_every``.
        precision: of the networks' forward passes, through autocast; weights, losses and queues stay float32.
    """

    weights: CddganWeights = CddganWeights()
    contrast: ContrastConfig = ContrastConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    init_gain: float | None = Field(0.02, gt=0)
    generator_rate: float = Field(2e-4, gt=0)
    discriminator_rate: float = Field(2e-4, gt=0)
    negative_rate: float = Field(2e-4, gt=0)
    beta: float = Field(0.5, ge=0, lt=1)
    constant_share: float = Field(0.5, ge=0, le=1)
    clip_norm: float | None = Field(None, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    history: int = Field(50, ge=0)
    diagnose_every: int = Field(100, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
