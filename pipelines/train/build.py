"""From a recipe to its method, and from a trained method to a checkpoint folder. No Ray."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from models import checkpoints as checkpoint
from models import zoo
from models.config import ConfigError, parse
from models.imports import named, package_of
from models.losses import ContrastivePerceptual, load_vgg, vgg_features
from models.networks import Cddgan as Generator
from pipelines.train.methods import CddganMethod, Colabator, Method, OwnLoss, ScorerTraining, Supervised, Wrap, identity
from pipelines.train.recipe import Recipe
from pseudolabel.scorer import WEIGHTS as SCORERS
from pseudolabel.scorer import ClipScorer, ScorerConfig, ScorerFeatures, create_clip, create_tokenizer, load_scorer

CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = "open_clip_model.safetensors"

State = Mapping[str, Tensor]


def allowed(recipe: Recipe, allow: Collection[str] = ()) -> tuple[str, ...]:
    """Return the packages whose networks may be built: ``allow``, and that of the network which the recipe itself
    names.
    """
    return (*allow, *package_of(recipe.network))


def make_network(recipe: Recipe, allow: Collection[str] = ()) -> nn.Module:
    """Make the network to train, from ``init`` where it is given.

    Args:
        recipe: whose own network may be of any package.
        allow: packages whose networks ``init`` may name.

    Raises:
        ConfigError: ``init`` is of another network than the recipe asks for, of a package that is not allowed, or has
            no weights.
    """
    if recipe.init is None:
        return zoo.build(recipe.network, allowed(recipe))
    have = zoo.config_of(recipe.init)["network"]
    if recipe.network and dict(recipe.network) != have:
        raise ConfigError(f"init {recipe.init!r} is {have}, but the recipe asks for {recipe.network}")
    network = zoo.load(recipe.init, allowed(recipe, allow)).network.train()
    if not any(True for _ in network.parameters()):  # the dark channel prior, an ONNX file
        raise ConfigError(f"init {recipe.init!r} has no weights that could be trained; expected a checkpoint folder")
    return network


def network_config(recipe: Recipe) -> dict[str, Any]:
    """Return what :func:`models.zoo.build` takes to make the recipe's network again."""
    if recipe.network or recipe.init is None:
        return dict(recipe.network)
    return dict(zoo.config_of(recipe.init)["network"])


def make_scorer(recipe: Recipe, device: torch.device) -> ClipScorer:
    """Load the recipe's scorer, or the packaged one."""
    name = recipe.scorer or "clip-compact"
    return load_scorer(name if isinstance(name, str) else parse(ScorerConfig, name, "scorer"), device)


def _scorer(recipe: Recipe, device: torch.device) -> ClipScorer | None:
    """Load the scorer whose gradients train the network, if any do; label workers have their own."""
    wanted = recipe.weights.haze_density or (recipe.method == "colabator" and recipe.real.haze_density)
    return make_scorer(recipe, device) if wanted else None


def _own_loss(path: str) -> OwnLoss:
    found = named(path, "loss")
    if not callable(found):
        raise ConfigError(f"weights.own names {path!r}, which is a {type(found).__name__}; expected a function")
    return cast("OwnLoss", found)


def _backbone(recipe: Recipe) -> str:
    """Return the backbone of the perceptual losses; ``none`` where neither has a weight."""
    weights = [recipe.weights.contrastive, recipe.weights.perceptual]
    if recipe.method == "colabator":
        weights.append(recipe.real.contrastive)
    used = recipe.method in ("supervised", "colabator") and any(weight != 0 for weight in weights)
    return recipe.perceptual.backbone if used else "none"


def make_contrastive(
    recipe: Recipe, device: torch.device, scorer: ClipScorer | None = None, vgg19: State | None = None
) -> ContrastivePerceptual | None:
    """Make the recipe's perceptual losses; None without a backbone, or where neither has a weight.

    Args:
        recipe: its ``perceptual`` and weights.
        device: where the backbone goes.
        scorer: one that is loaded already.
        vgg19: of :func:`rehearse`, where the backbone is a VGG; without it, it is loaded.

    Raises:
        ConfigError: the backbone's weights cannot be had, or it gives no features.
    """
    backbone = _backbone(recipe)
    if backbone == "none":
        return None
    if backbone == "scorer":
        features: nn.Module = ScorerFeatures(scorer or make_scorer(recipe, device))
    else:
        state = load_vgg(backbone) if vgg19 is None else vgg19
        features = vgg_features(backbone, state, normalize=recipe.perceptual.normalize)
    return ContrastivePerceptual(features.to(device), recipe.perceptual.weights)


def _clip_folder(recipe: Recipe) -> Path:
    folder = str(recipe.network.get("folder", ""))
    path = SCORERS / folder if (SCORERS / folder / CLIP_CONFIG).is_file() and folder else Path(folder)
    if not (path / CLIP_CONFIG).is_file():
        raise ConfigError(f"network.folder is {folder!r}; expected a folder with {CLIP_CONFIG}")
    return path.resolve()


def _scorer_training(recipe: Recipe, device: torch.device, wrap: Wrap) -> ScorerTraining:
    import open_clip

    name = f"local-dir:{_clip_folder(recipe)}"
    clip = create_clip(name, load_weights=False)
    look = open_clip.get_model_preprocess_cfg(clip)
    mean, std = (torch.tensor(look[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return ScorerTraining(
        clip,
        create_tokenizer(name),
        mean=mean,
        std=std,
        optimizer=recipe.optimizer,
        scoring=recipe.scoring,
        steps=recipe.train.steps,
        seed=recipe.train.seed,
        device=device,
        wrap=wrap,
    )


def _cddgan(network: nn.Module, recipe: Recipe, wrap: Wrap) -> CddganMethod:
    if not isinstance(network, Generator):
        raise ConfigError(f"CDD-GAN trains {{name: cddgan, ...}}, but network is {network_config(recipe)}")
    return CddganMethod(
        network,
        config=recipe.cddgan,
        steps=recipe.train.steps,
        seed=recipe.train.seed,
        pretrained=recipe.init is not None,
        wrap=wrap,
    )


def make_method(
    recipe: Recipe,
    device: torch.device,
    allow: Collection[str] = (),
    *,
    vgg19: State | None = None,
    wrap: Wrap = identity,
) -> Method:
    """Make the recipe's method with its networks on ``device``.

    ``allow`` as for :func:`make_network`, ``vgg19`` as for :func:`make_contrastive`; ``wrap`` makes a module
    distributed.
    """
    torch.manual_seed(recipe.train.seed)
    if recipe.method == "scorer":
        return _scorer_training(recipe, device, wrap)
    network = make_network(recipe, allow).to(device)
    if recipe.method == "cddgan":
        return _cddgan(network, recipe, wrap)
    scorer = _scorer(recipe, device)
    common: dict[str, Any] = {
        "weights": recipe.weights,
        "optimizer": recipe.optimizer,
        "steps": recipe.train.steps,
        "scorer": scorer,
        "contrastive": make_contrastive(recipe, device, scorer, vgg19),
        "pretrained": recipe.init is not None,
        "own": {path: _own_loss(path) for path in recipe.weights.own},
        "wrap": wrap,
    }
    if recipe.method == "colabator":
        return Colabator(network, real=recipe.real, **common)
    return Supervised(network, **common)


def rehearse(recipe: Recipe, allow: Collection[str] = (), device: torch.device | None = None) -> State | None:
    """Build everything that is going to be built, so that what cannot be is refused before that.

    Args:
        recipe: what is to be trained.
        allow: as for :func:`make_network`.
        device: of this machine, to train on; without it workers of Ray train, and this CPU stands for theirs.

    Returns:
        the weights of VGG-19 (or VGG-16) where the recipe needs them: workers elsewhere have neither this machine's
        files nor its downloads.

    Raises:
        ConfigError: networks, weights or losses that cannot be made.
    """
    if recipe.optimizer.precision == "float16" and device is None:
        if not recipe.train.worker_gpus:
            raise ConfigError(
                "optimizer.precision is float16, which needs GPUs, and train.worker_gpus is 0: set it to 1, or the "
                "precision to bfloat16"
            )
        here = recipe.optimizer.model_copy(update={"precision": "float32"})
        recipe = recipe.model_copy(update={"optimizer": here})
    backbone = _backbone(recipe)
    vgg19 = None if backbone in ("none", "scorer") else load_vgg(backbone)
    place = device or torch.device("cpu")
    make_method(recipe, place, allow, vgg19=vgg19)
    if recipe.method == "colabator":
        block, size = make_scorer(recipe, place).config.block, recipe.labels.size
        if block > size:
            raise ConfigError(
                f"labels.size is {size}, and scorer.block is {block}: a label needs one whole block, so make the "
                "labels larger or the blocks smaller"
            )
    return vgg19


def write_checkpoint(folder: Path, method: Method, recipe: Recipe, metrics: Mapping[str, float], step: int) -> Path:
    """Write a checkpoint of ``method`` after ``step`` steps: exported weights, resolved recipe, metrics, training
    state.
    """
    state = {"method": method.state_dict(), "step": step}
    if recipe.method != "scorer":
        config = {"network": network_config(recipe), "recipe": recipe.model_dump(mode="json"), "step": step}
        return checkpoint.save(folder, method.export(), config, metrics=metrics, state=state)
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().half().contiguous() for name, tensor in method.export().state_dict().items()}
    save_file(weights, folder / CLIP_WEIGHTS)
    shutil.copy(_clip_folder(recipe) / CLIP_CONFIG, folder / CLIP_CONFIG)
    torch.save(state, folder / checkpoint.STATE)
    return folder
