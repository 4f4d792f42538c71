"""CORUN: the cooperative unfolding network (Fang et al., NeurIPS 2024, arXiv 2406.07966).

Each stage alternates a gradient step on the scattering model, with the airlight folded to 1
(``P = J*T + 1 - T``), and a learned proximal mapping, for the transmission T and for the scene J.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from models.config import Settings
from models.networks.airlight import AirlightHead, Light
from models.networks.bands import in_bands
from models.networks.blocks import SpectralTransformer, pad_to_multiple
from models.networks.released import load_renamed, renamed

TRANSMISSION_RANGE = (0.05, 0.999)
_ZERO = 1e-7


class CorunConfig(Settings):
    """CORUN.

    Attributes:
        stages: the paper's K.
        dim: channels of the widest level (30 in the paper).
        airlight: estimate the airlight with a head; the photograph is divided by it before the network and multiplied
            after it (:mod:`models.networks.airlight`). The paper takes the airlight for 1.
    """

    stages: int = Field(4, ge=1)
    dim: int = Field(30, ge=2, multiple_of=2)
    airlight: bool = False


@dataclass(frozen=True)
class CorunOutput:
    """Scenes (N3HW) and transmissions (N1HW) of every stage, from the first to the last; the light where it was
    estimated, and then without gradients of the last stage only.
    """

    scenes: list[Tensor]
    transmissions: list[Tensor]
    light: Light | None = None

    @property
    def scene(self) -> Tensor:
        """Return the last stage's scene J_K; not clamped."""
        return self.scenes[-1]

    @property
    def transmission(self) -> Tensor:
        """Return the last stage's transmission T_K."""
        return self.transmissions[-1]


def _nonzero(x: Tensor) -> Tensor:
    # Exact zeros alone, as in the authors' program: an epsilon would move all other pixels.
    return torch.where(x == 0, torch.full_like(x, _ZERO), x)


class TransmissionStep(nn.Module):
    """TGDM: the closed-form gradient step for the transmission."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.sigmoid(torch.tensor([0.3])))

    def forward(self, hazy: Tensor, scene: Tensor, transmission: Tensor) -> Tensor:
        """Return ``T_hat = clamp(sum_c[(1-P) + l T/(1-J)] / sum_c[(1-J) + l/(1-J)])``; J N3HW, T N1HW -> N1HW."""
        absent = _nonzero(1.0 - scene)
        numerator = (1.0 - hazy) + self.step * transmission / absent
        denominator = absent + self.step / absent
        ratio = numerator.sum(1, keepdim=True) / _nonzero(denominator.sum(1, keepdim=True))
        return ratio.clamp(*TRANSMISSION_RANGE)


class SceneStep(nn.Module):
    """SGDM: the closed-form gradient step for the scene."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.sigmoid(torch.tensor([0.3])))

    def forward(self, hazy: Tensor, scene: Tensor, transmission: Tensor) -> Tensor:
        """Return ``J_hat = clamp((T P + T^2 - T + g J) / (T^2 + g), 0, 1)``; -> N3HW."""
        numerator = transmission * hazy + transmission**2 - transmission + self.step * scene
        return (numerator / _nonzero(transmission**2 + self.step)).clamp(0.0, 1.0)


class Stage(nn.Module):
    """One unfolding stage; the last one has no T-CPMM."""

    def __init__(self, dim: int, last: bool) -> None:
        super().__init__()
        self.transmission_step = TransmissionStep()
        self.transmission_prior = None if last else SpectralTransformer(4, 1, dim)
        self.scene_step = SceneStep()
        self.scene_prior = SpectralTransformer(4, 3, dim)

    def forward(
        self, hazy: Tensor, scene: Tensor, scene_hat: Tensor, transmission: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run a stage: ``(P, J_{k-1}, J_hat_{k-1}, T_{k-1}) -> (J_k, J_hat_k, T_k, T_hat_k)``."""
        transmission_hat = in_bands(self.transmission_step, hazy, scene_hat, transmission, halo=0)
        # The last stage has no prior: T_K is T_hat_K.
        transmission = transmission_hat
        if self.transmission_prior is not None:
            transmission = self.transmission_prior(transmission_hat, scene)
        scene_hat = in_bands(self.scene_step, hazy, scene, transmission_hat, halo=0)
        scene = self.scene_prior(scene_hat, transmission_hat)
        return scene, scene_hat, transmission, transmission_hat


class Corun(nn.Module):
    """The network: hazy photograph in, every stage's scene and transmission out."""

    BANDED = True
    MULTIPLE = 8

    def __init__(self, config: CorunConfig | None = None) -> None:
        super().__init__()
        self.config = config or CorunConfig()
        last = self.config.stages - 1
        self.stages = nn.ModuleList(Stage(self.config.dim, k == last) for k in range(self.config.stages))
        self.light = AirlightHead() if self.config.airlight else None

    def forward(self, hazy: Tensor) -> CorunOutput:
        """Dehaze N3HW in [0, 1], any size -> scenes N3HW (not clamped) and transmissions N1HW of the stages."""
        if self.light is None:
            return self._unfolded(hazy)
        light = self.light(hazy)
        found = self._unfolded(self.light.fold(hazy, light))
        seen = slice(None) if torch.is_grad_enabled() else slice(-1, None)  # only losses look at earlier stages
        return CorunOutput(
            [self.light.unfold(scene, hazy, light) for scene in found.scenes[seen]],
            # Where there is no haze, the photograph stays as it is and its transmission is 1.
            [1.0 - light.amount * (1.0 - transmission) for transmission in found.transmissions[seen]],
            light,
        )

    def _unfolded(self, hazy: Tensor) -> CorunOutput:
        """The network as published, for an airlight of 1."""
        height, width = hazy.shape[-2:]
        padded = pad_to_multiple(hazy, self.MULTIPLE)
        # J_0 = J_hat_0 = P, T_0 = 0.5.
        scene = scene_hat = padded
        transmission = torch.full_like(padded[:, :1], 0.5)
        scenes, transmissions = [], []
        for stage in self.stages:
            scene, scene_hat, transmission, transmission_hat = stage(padded, scene, scene_hat, transmission)
            scenes.append(scene[..., :height, :width])
            transmissions.append(transmission_hat[..., :height, :width])
        return CorunOutput(scenes, transmissions)


_RELEASED_BLOCK = {
    "attention.query": "blocks.0.0.to_q",
    "attention.key": "blocks.0.0.to_k",
    "attention.value": "blocks.0.0.to_v",
    "attention.rescale": "blocks.0.0.rescale",
    "attention.project": "blocks.0.0.proj",
    "attention.position": "blocks.0.0.pos_emb",
    "norm": "blocks.0.1.norm",
    "feed_forward": "blocks.0.1.fn.net",
}


def _released_transformer(name: str) -> str:
    """The released name of a parameter of SpectralTransformer."""
    part, _, rest = name.partition(".")
    if part in ("embed", "output"):
        return {"embed": "embedding", "output": "mapping"}[part] + f".{rest}"
    if part == "bottleneck":
        return f"bottleneck.{renamed(rest, _RELEASED_BLOCK)}"
    level, _, rest = rest.partition(".")
    if part == "encode":
        return f"encoder_layers.{level}.0.{renamed(rest, _RELEASED_BLOCK)}"
    if part == "down":
        return f"encoder_layers.{level}.1.body.{rest}"
    if part == "up":
        return f"decoder_layers.{level}.0.body.{rest}"
    if part == "fuse":
        return f"decoder_layers.{level}.1.{rest}"
    return f"decoder_layers.{level}.2.{renamed(rest, _RELEASED_BLOCK)}"


def released_name(name: str, stages: int) -> str:
    """Return the name that the authors' program gives to parameter ``name`` of a ``stages``-stage :class:`Corun`."""
    # Such as stages.0.scene_prior.embed.weight.
    _, index, part, rest = name.split(".", 3)
    place = "first" if index == "0" else "last" if int(index) == stages - 1 else f"basic.{int(index) - 1}"
    module = {
        "transmission_step": "trans_prox",
        "scene_step": "dehaze_prox",
        "transmission_prior": "trans_net",
        "scene_prior": "dehaze_net",
    }[part]
    return f"{place}.{module}.{'step_lambda' if rest == 'step' else _released_transformer(rest)}"


def load_released_corun(state_dict: Mapping[str, Tensor]) -> Corun:
    """Make a :class:`Corun` with the authors' released weights (their ``params_ema`` or ``params`` state dict).

    Raises:
        ValueError: names that do not match, each listed.
        RuntimeError: shapes that do not match, each listed.
    """
    names = [str(name) for name in state_dict]
    # The first stage and the last have names of their own.
    stages = 2 + len({name.split(".")[1] for name in names if name.startswith("basic.")})
    embedding = state_dict.get("first.dehaze_net.embedding.weight")
    if embedding is None:
        raise ValueError("not a released CORUN state dict: 'first.dehaze_net.embedding.weight' is missing")
    network = Corun(CorunConfig(stages=stages, dim=embedding.shape[0]))
    load_renamed(network, state_dict, {name: released_name(name, stages) for name in network.state_dict()})
    return network
