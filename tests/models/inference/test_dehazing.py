"""One function dehazes any size with any network; what it pads, it crops."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from models import zoo
from models.config import ConfigError, parse
from models.haze import DarkChannelPrior
from models.images import ImageError, Photo, to_uint8
from models.inference import runner as inference
from models.inference.controls import blend
from models.inference.dehazing import dehaze
from models.inference.runner import ExecutionPlan, as_dehazed
from models.networks.corun import Corun, CorunConfig
from models.options import DehazeOptions, InferenceConfig
from models.predictor import Predictor

SIZES = [(1, 1), (7, 5), (8, 16), (9, 1), (3, 31)]


class Recorder(nn.Module):
    """Returns what it is told to, and keeps what it saw."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.seen = torch.empty(0)

    def forward(self, image: Tensor) -> Any:
        self.seen = image
        return self.answer(image)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 26), width=st.integers(1, 26), count=st.integers(1, 3))
def test_padding_is_whole_eights_and_leaves_no_trace(height: int, width: int, count: int) -> None:
    image, network = torch.rand(count, 3, height, width), Recorder(lambda x: x)
    found = dehaze(network, image)
    assert torch.equal(found.scene, image)
    assert found.transmission is None
    assert network.seen.shape == (count, 3, -(-height // 8) * 8, -(-width // 8) * 8)


def test_an_image_of_whole_eights_is_not_padded() -> None:
    image, network = torch.rand(1, 3, 16, 24), Recorder(lambda x: x)
    dehaze(network, image)
    assert torch.equal(network.seen, image)


def test_padding_mirrors_the_image() -> None:
    image, network = torch.rand(1, 3, 7, 5), Recorder(lambda x: x)
    dehaze(network, image)
    assert torch.equal(network.seen[..., :7, 5:], image[..., [3, 2, 1]])
    assert torch.equal(network.seen[..., 7, :5], image[..., 5, :])


def test_scene_and_transmission_are_cropped_alike_and_clamped() -> None:
    image = torch.rand(1, 3, 7, 5)
    network = Recorder(lambda x: SimpleNamespace(scene=3 * x - 1, transmission=2 * x[:, :1] - 0.5))
    found = dehaze(network, image)
    torch.testing.assert_close(found.scene, (3 * image - 1).clamp(0, 1))
    assert found.transmission is not None
    torch.testing.assert_close(found.transmission, (2 * image[:, :1] - 0.5).clamp(0, 1))


@pytest.mark.parametrize("size", SIZES)
def test_corun_is_padded_only_once(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network, image = Corun(CorunConfig(stages=2, dim=2)).eval(), torch.rand(2, 3, *size)
    found, direct = dehaze(network, image), network(image)
    torch.testing.assert_close(found.scene, direct.scene.detach().clamp(0, 1), atol=1e-5, rtol=0)
    assert found.transmission is not None
    torch.testing.assert_close(found.transmission, direct.transmission.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(dehaze(network, image[1:]).scene[0], found.scene[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_dark_channel_prior_takes_any_size(size: tuple[int, int]) -> None:
    found = dehaze(DarkChannelPrior(), torch.rand(1, 3, *size))
    assert found.transmission is not None
    assert (found.scene.shape, found.transmission.shape) == ((1, 3, *size), (1, 1, *size))
    for part in (found.scene, found.transmission):
        assert 0 <= part.min() <= part.max() <= 1


def test_no_gradients_are_kept_and_none_are_spoilt() -> None:
    network = nn.Conv2d(3, 3, 1)
    assert not dehaze(network, torch.rand(1, 3, 4, 4)).scene.requires_grad
    assert torch.is_grad_enabled()
    assert network.training


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (torch.zeros(1, 8, 8, 3), r"float32 \(1, 8, 8, 3\)"),
        (torch.zeros(3, 8, 8), r"float32 \(3, 8, 8\)"),
        (torch.zeros(1, 4, 8, 8), r"\(1, 4, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), r"\(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (np.zeros((1, 3, 8, 8), np.float32), "ndarray"),
    ],
)
def test_what_is_no_batch_of_images_is_named(image: Any, told: str) -> None:
    with pytest.raises(ImageError, match=told):
        dehaze(nn.Conv2d(3, 3, 1), image)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_float_is_taken(dtype: torch.dtype) -> None:
    network, image = corun(), torch.rand(1, 3, 8, 16).to(dtype)
    found = dehaze(network, image).scene
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dehaze(network, image.float()).scene, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(16, 24), (520, 520)])
def test_the_configuration_has_the_precision_and_no_autocast_around(size: tuple[int, int]) -> None:
    network, image = corun(), torch.rand(1, 3, *size)
    photo = Photo(to_uint8(image)[0])
    before, pixels = dehaze(network, image).scene, dehazed(network, photo)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(dehaze(network, image).scene, before, rtol=0, atol=0)
        np.testing.assert_array_equal(dehazed(network, photo), pixels)


def dehazed(network: nn.Module, photo: Photo) -> NDArray[Any]:
    predictor = Predictor("dcp")
    predictor._network = network
    return predictor.dehaze_photo(photo).pixels


@pytest.mark.parametrize("answer", [None, "scene", {"scene": torch.zeros(1)}, SimpleNamespace(scene=None), (1, 2)])
def test_an_answer_without_a_scene_is_named(answer: Any) -> None:
    with pytest.raises(ConfigError, match=type(answer).__name__):
        as_dehazed(answer)


@pytest.mark.parametrize(
    ("scene", "transmission"), [((1, 3, 8, 4), (1, 1, 8, 8)), ((1, 3, 8, 8), (1, 3, 8, 8)), ((1, 3, 8, 8), (1, 8, 8))]
)
def test_an_answer_of_another_size_is_named(scene: tuple[int, ...], transmission: tuple[int, ...]) -> None:
    class Network(nn.Module):
        def forward(self, image: Tensor) -> Any:
            return SimpleNamespace(scene=torch.zeros(scene), transmission=torch.zeros(transmission))

    wrong = scene if scene[-1] != 8 else transmission
    with pytest.raises(ConfigError, match=re.escape(f"of {wrong}; expected")):
        dehaze(Network(), torch.rand(1, 3, 8, 8))


def test_strength_goes_from_hazy_to_dehazed() -> None:
    hazy, scene = torch.rand(2, 1, 3, 4, 4)
    assert torch.equal(blend(hazy, scene, 1.0), scene)
    assert torch.equal(blend(hazy, scene, 0.0), hazy)
    torch.testing.assert_close(blend(hazy, scene, 0.25), 0.75 * hazy + 0.25 * scene)


# --- memory ---


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * torch.log10((one - other).square().mean() + 1e-20))


def plans(monkeypatch: pytest.MonkeyPatch) -> list[ExecutionPlan]:
    """What is run, in order; the networks are measured as if they cost 1 KiB per pixel."""
    seen: list[ExecutionPlan] = []
    run = inference.Runner.run

    def watched(self: Any, image: Tensor, plan: ExecutionPlan) -> Any:
        seen.append(plan)
        return run(self, image, plan)

    monkeypatch.setattr(inference.Runner, "run", watched)
    monkeypatch.setattr(inference.Runner, "_cost", lambda self: (1024.0, 0.0))
    return seen


def corun() -> Corun:
    torch.manual_seed(0)
    return Corun(CorunConfig(stages=1, dim=2)).eval()


def test_feature_maps_that_do_not_fit_are_spilled_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, network, image = plans(monkeypatch), corun(), torch.rand(1, 3, 136, 144)
    whole = dehaze(network, image, InferenceConfig(memory_mb=100))
    spilled = dehaze(network, image, InferenceConfig(memory_mb=16))
    assert [plan.spill for plan in seen] == [False, True]
    torch.testing.assert_close(spilled.scene, whole.scene, atol=1e-5, rtol=0)


def test_a_batch_that_does_not_fit_is_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, network, images = plans(monkeypatch), corun(), torch.rand(3, 3, 96, 96)
    together = dehaze(network, images, InferenceConfig(memory_mb=40)).scene
    one_by_one = dehaze(network, images, InferenceConfig(memory_mb=16)).scene
    assert [plan.spill for plan in seen] == [False] * 4
    torch.testing.assert_close(one_by_one, together, atol=1e-5, rtol=0)


def test_other_networks_get_tiles_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, image = plans(monkeypatch), torch.rand(1, 3, 200, 260)
    network = nn.Conv2d(3, 3, 5, padding=2, padding_mode="reflect")
    torch.nn.init.constant_(network.weight, 1 / 75)
    whole = network(image).detach().clamp(0, 1)
    found = dehaze(network, image, InferenceConfig(memory_mb=16))
    assert [plan.tile for plan in seen] == [128]
    torch.testing.assert_close(found.scene, whole, atol=1e-5, rtol=0)


def test_tiles_of_the_dark_channel_prior_share_their_airlight(monkeypatch: pytest.MonkeyPatch) -> None:
    plans(monkeypatch)
    glow = torch.linspace(0.3, 0.9, 320).view(1, 1, 320, 1) * torch.linspace(0.6, 1.0, 256)
    image = (glow + 0.05 * torch.rand(1, 3, 320, 256)).clamp(0, 1)
    whole = dehaze(DarkChannelPrior(guide_radius=8), image, InferenceConfig(memory_mb=1000)).scene
    tiled = dehaze(DarkChannelPrior(guide_radius=8), image, InferenceConfig(memory_mb=20)).scene
    assert psnr(tiled, whole) > 30
    monkeypatch.setattr(inference, "replaying", lambda statistics: inference.contextlib.nullcontext())
    assert psnr(dehaze(DarkChannelPrior(guide_radius=8), image, InferenceConfig(memory_mb=20)).scene, whole) < psnr(
        tiled, whole
    )


def test_tiles_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, network = plans(monkeypatch), Recorder(lambda x: x)
    for size, tile in (((200, 260), 128), ((128, 120), 0)):
        image = torch.rand(1, 3, *size)
        torch.testing.assert_close(dehaze(network, image, InferenceConfig(tile=128)).scene, image)
        assert seen.pop().tile == tile


class Hungry(nn.Module):
    """Runs out of memory for images of more pixels than it is given."""

    CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
    CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"

    def __init__(self, pixels: int, message: str = CPU) -> None:
        super().__init__()
        self.pixels, self.message = pixels, message

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2] * image.shape[-1] > self.pixels:
            raise RuntimeError(self.message)
        return image


@pytest.mark.parametrize("message", [Hungry.CPU, Hungry.CUBLAS])
def test_when_memory_runs_out_tiles_get_smaller(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, image = plans(monkeypatch), torch.rand(2, 3, 400, 400)
    torch.testing.assert_close(dehaze(Hungry(160 * 160, message), image).scene, image)
    assert [plan.tile for plan in seen] == [0, 200, 128]


def test_when_nothing_helps_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plans(monkeypatch)
    with pytest.raises(MemoryError, match=r"out of memory for an image of \(1, 3, 300, 300\)"):
        dehaze(Hungry(0), torch.rand(1, 3, 300, 300))


@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_no_memory_beside_the_network_is_told_as_such(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object, **__: object) -> None:
        raise RuntimeError(f"[enforce fail at alloc_cpu.cpp:127] err == 0. {Hungry.CPU}")

    large = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    for module in ("pixels", "guided"):
        monkeypatch.setattr(f"models.inference.{module}.mapped", hungry)
    with pytest.raises(MemoryError, match="not enough memory to dehaze the image"):
        Predictor("dcp").dehaze_photo(Photo(large), DehazeOptions(strength=strength))
    with pytest.raises(MemoryError):
        dehaze(DarkChannelPrior(), Photo(large).tensor())


def test_other_errors_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = plans(monkeypatch)
    with pytest.raises(RuntimeError, match="expected input"):
        dehaze(nn.Conv2d(4, 3, 1), torch.rand(1, 3, 64, 64))
    assert len(seen) == 1


def test_the_measured_cost_is_near_the_truth() -> None:
    runner = inference.Runner(corun(), torch.device("cpu"), InferenceConfig())
    per_pixel, _fixed = runner._cost()
    image = torch.rand(1, 3, 512, 512)
    needed = inference.peak_bytes(lambda: runner.whole(image, ExecutionPlan(1)))
    inference.Runner(corun(), torch.device("cpu"), InferenceConfig())._cost()
    drawn = torch.rand(1)
    corun()
    assert torch.equal(drawn, torch.rand(1)), "random numbers of others stay what they were"
    assert needed / 512**2 == pytest.approx(per_pixel, rel=0.25)


# --- precision ---


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_any_precision_gives_float32_images(precision: str) -> None:
    network, image = corun(), torch.rand(1, 3, 24, 40)
    exact = network(image).scene.detach().clamp(0, 1)
    found = dehaze(network, image, parse(InferenceConfig, {"precision": precision}))
    assert found.scene.dtype == torch.float32
    assert psnr(found.scene, exact) > 40


@pytest.mark.parametrize(
    ("config", "layer"),
    [
        ({"name": "corun", "stages": 2, "dim": 4}, "stages.1.scene_prior.output"),
        ({"name": "dgun", "stages": 2, "dim": 4}, "last.tail"),
        *(({"name": "cddgan", "width": 4, "blocks": 1, "skip": s}, "output") for s in ("none", "add", "scattering")),
    ],
)
def test_images_are_composed_in_float32_whatever_the_precision(config: dict[str, Any], layer: str) -> None:
    network, composed = zoo.build(config).eval(), []
    network.get_submodule(layer).register_forward_hook(lambda _layer, _inputs, output: composed.append(output))
    scene = dehaze(network, torch.rand(1, 3, 16, 24), InferenceConfig(precision="bfloat16")).scene
    assert {part.dtype for part in composed} == {torch.float32}
    assert not torch.equal(scene, scene.bfloat16().float())


def test_a_network_that_ends_in_half_precision_runs_in_float32() -> None:
    network = nn.Conv2d(3, 3, 3, padding=1)
    image = torch.rand(1, 3, 16, 24)
    for _ in range(2):
        found = dehaze(network, image, InferenceConfig(precision="bfloat16"))
        assert torch.equal(found.scene, dehaze(network, image, InferenceConfig(precision="float32")).scene)


def test_a_network_whose_numbers_do_not_fit_into_float16_runs_in_float32() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
            nn.init.constant_(self.up.weight, 1e5)
            nn.init.constant_(self.down.weight, 1e-6)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            scene: torch.Tensor = self.down(self.up(image))
            return scene.float()

    network, image = Large(), torch.rand(1, 3, 16, 24)
    exact = dehaze(network, image, InferenceConfig(precision="float32")).scene
    assert 0.1 < float(exact.mean()) < 1
    for _ in range(2):
        assert torch.equal(dehaze(network, image, InferenceConfig(precision="float16")).scene, exact)


def test_an_image_that_is_no_number_says_nothing_about_the_network() -> None:
    network, image = corun(), torch.rand(1, 3, 16, 24)
    half = dehaze(network, image, InferenceConfig(precision="float16")).scene
    spoilt = image.clone()
    spoilt[..., 3, 5] = math.nan
    assert dehaze(network, spoilt, InferenceConfig(precision="float16")).scene.isnan().any()
    assert torch.equal(dehaze(network, image, InferenceConfig(precision="float16")).scene, half)
    assert not torch.equal(dehaze(network, image, InferenceConfig(precision="float32")).scene, half)


def test_infinity_is_no_white() -> None:
    found = dehaze(Recorder(lambda x: SimpleNamespace(scene=x / 0, transmission=-x[:, :1] / 0)), torch.rand(1, 3, 8, 8))
    assert found.scene.isnan().all()
    assert found.transmission is not None
    assert found.transmission.isnan().all()


def test_auto_is_float16_on_a_gpu_alone() -> None:
    assert inference.native_precision(torch.device("cuda")) == torch.float16
    assert inference.native_precision(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("options", [{"precision": "float8"}, {"memory_mb": 1}, {"overlap": -1}, {"tiles": 3}])
def test_impossible_configurations_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        parse(InferenceConfig, options)


@pytest.mark.slow
def test_compiled_networks_give_the_same_images() -> None:
    """Needs a C++ compiler on a CPU."""
    network, image = corun(), torch.rand(1, 3, 32, 40)
    compiled = dehaze(network, image, InferenceConfig(compile=True)).scene
    torch.testing.assert_close(compiled, dehaze(network, image).scene, atol=1e-4, rtol=0)


# --- gray in, gray out ---


def test_a_gray_image_gets_a_gray_scene_and_colors_stay_as_they_are() -> None:
    tint = torch.tensor([1.1, 0.9, 0.7]).view(1, 3, 1, 1)
    network = Recorder(lambda x: SimpleNamespace(scene=x * tint, transmission=x[:, :1]))
    gray, colors = torch.rand(1, 1, 9, 7).expand(-1, 3, -1, -1), torch.rand(1, 3, 9, 7)
    found = dehaze(network, torch.cat([gray, colors]))
    expected = 0.2126 * (gray * 1.1).clamp(0, 1) + 0.7152 * gray * 0.9 + 0.0722 * gray * 0.7
    torch.testing.assert_close(found.scene[:1], expected)
    assert torch.equal(found.scene[0, 0], found.scene[0, 1])
    assert torch.equal(found.scene[0, 0], found.scene[0, 2])
    assert torch.equal(found.scene[1:], (colors * tint).clamp(0, 1))
    assert torch.equal(found.transmission, torch.cat([gray, colors])[:, :1])  # type: ignore[arg-type]


def test_gray_in_tiles_and_at_some_strength() -> None:
    network = Recorder(lambda x: x * torch.tensor([1.1, 0.9, 0.7]).view(1, 3, 1, 1))
    gray = torch.rand(1, 1, 150, 260).expand(-1, 3, -1, -1)
    scene = dehaze(network, gray, InferenceConfig(tile=128, overlap=16)).scene
    for shown in (scene, blend(gray, scene, 0.3)):
        assert torch.equal(shown[:, 0], shown[:, 1])
        assert torch.equal(shown[:, 0], shown[:, 2])


@pytest.mark.parametrize(
    "config", [InferenceConfig(precision="float32"), InferenceConfig(precision="float32", tile=128)]
)
@pytest.mark.parametrize("name", ["dcp", "corun-compact"])
def test_the_ends_of_a_panorama_meet(name: str, config: InferenceConfig) -> None:
    """The step where they meet is no larger than that of neighboring columns; without ``wrap`` it is."""
    image = _round_image(160, 324)
    network = zoo.load(name).network

    def step(scene: Tensor) -> tuple[float, float]:
        steps = (scene - scene.roll(1, dims=-1)).abs().mean(dim=(0, 1, 2)) * 255
        return float(steps[0]), float(steps[1:].mean())

    seam, usual = step(dehaze(network, image, config, wrap=True).scene)
    assert seam < 1.3 * usual
    assert step(dehaze(network, image, config).scene)[0] > 1.5 * usual
    found = dehaze(network, image, config, wrap=True)
    assert found.scene.shape == image.shape
    assert found.transmission is not None
    assert found.transmission.shape[-2:] == image.shape[-2:]


def test_a_panorama_may_be_narrow() -> None:
    image = _round_image(40, 9)
    assert dehaze(zoo.load("dcp").network, image, wrap=True).scene.shape == image.shape


def _round_image(height: int, width: int) -> Tensor:
    """Hazy, with waves and blocks that go on from the right end to the left."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.arange(width) / width * 2 * math.pi
    down = torch.linspace(0, 3, height)[:, None]
    scene = torch.full((3, height, width), 0.45)
    for count in range(1, 9):
        for channel in range(3):
            strength, phase, slant = torch.rand(3, generator=generator)
            scene[channel] += 0.15 * strength * torch.sin(count * angle + 6 * phase) * torch.cos(count * down * slant)
    for _ in range(40):
        bounds = ((0, width), (height // 3, height), (4, 30))
        left, top, side = (int(torch.randint(*pair, (1,), generator=generator)) for pair in bounds)
        scene[:, top : top + side, (torch.arange(side) + left) % width] = torch.rand(3, 1, 1, generator=generator)
    transmission = torch.linspace(0.15, 0.8, height)[:, None]
    return (scene.clamp(0, 1) * transmission + 0.88 * (1 - transmission))[None]
