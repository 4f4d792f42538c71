"""Micro-batches equal one batch, precision changes little, and what cannot be trained is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.config import ConfigError
from models.losses.perceptual import ContrastivePerceptual
from models.networks.corun import Corun, CorunConfig
from pipelines.train.methods.colabator import Colabator, RealWeights
from pipelines.train.methods.optimization import OptimizerConfig, Stepper, micro_batches
from pipelines.train.methods.supervised import LossWeights, Supervised
from pipelines.train.recipe import load_recipe
from tests.pipelines.train.methods.networks import Brightness, Physical, Plain, batch


def pyramid(images: Tensor) -> list[Tensor]:
    """Stands for a backbone."""
    return [nn.functional.avg_pool2d(images, size).square() for size in (1, 2, 4)]


def made(kind: type[Supervised], network: Callable[[], nn.Module], **optimizer: Any) -> Supervised:
    """A method with every loss."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": LossWeights(haze_density=0.1)}
    if kind is Colabator:
        options["real"] = RealWeights()
    return kind(
        network(),
        optimizer=OptimizerConfig(**{"learning_rate": 1e-3, "warmup": 0} | optimizer),
        steps=10,
        scorer=Brightness(),
        contrastive=ContrastivePerceptual(pyramid, (0.2, 0.3, 0.5)),
        **options,
    )


def corun() -> nn.Module:
    return Corun(CorunConfig(stages=1, dim=2))


def gradients(method: Supervised) -> Tensor:
    return torch.cat([p.grad.flatten() for p in method.network.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", [Supervised, Colabator])
@pytest.mark.parametrize("network", [corun, Physical, Plain])
def test_micro_batches_add_up_to_the_batch(kind: type[Supervised], network: Callable[[], nn.Module]) -> None:
    whole, cut = made(kind, network), made(kind, network, accumulate=2)
    data = batch(0, count=4)
    one, other = whole.training_step(data, 0), cut.training_step(data, 0)
    assert set(one) == set(other)
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-5), name
    torch.testing.assert_close(gradients(cut), gradients(whole), rtol=1e-4, atol=1e-6)
    for a, b in zip(whole.network.parameters(), cut.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3e-4)  # Adam's first step is a sign: tiny gradients may flip
    assert whole.stepper.teacher.updates == cut.stepper.teacher.updates == 1


def test_a_batch_is_cut_in_equal_parts_and_in_order() -> None:
    data = {"hazy": torch.arange(6.0), "trust": torch.arange(3.0)}
    parts = micro_batches(data, 3)
    assert [part["hazy"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert [part["trust"].tolist() for part in parts] == [[0], [1], [2]]
    assert micro_batches(data, 1) == [data]


def test_a_recipe_whose_batches_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Recipe: train\.batch_size is 4, and optimizer\.accumulate is 3"):
        load_recipe("demo_pretrain", ["optimizer.accumulate=3"])
    with pytest.raises(ConfigError, match=r"labels\.batch_size is 2, and optimizer\.accumulate is 4"):
        load_recipe("demo_colabator", ["optimizer.accumulate=4", "train.batch_size=4"])
    load_recipe("demo_pretrain", ["optimizer.accumulate=4", "labels.batch_size=3"])  # no labels in this method


@pytest.mark.parametrize("kind", [Supervised, Colabator])
def test_bfloat16_computes_the_network_and_float32_the_losses(kind: type[Supervised]) -> None:
    full, half = made(kind, corun), made(kind, corun, precision="bfloat16", accumulate=2)
    seen = []
    convolution = next(m for m in half.network.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    one, other = full.training_step(batch(0), 0), half.training_step(batch(0), 0)
    assert set(seen) == {torch.bfloat16}
    assert one.pop("learning_rate") == other["learning_rate"]
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=0.05), name
        assert other[name] != value, name
    assert all(p.dtype == torch.float32 for p in half.network.parameters())
    assert all(p.grad.dtype == torch.float32 for p in half.network.parameters() if p.grad is not None)
    losses = [half.training_step(batch(0), step)["loss"] for step in range(1, 10)]
    assert losses[-1] < other["loss"]


def test_float16_needs_cuda() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.precision is float16 on cpu, it needs CUDA; choose bfloat16"):
        made(Supervised, Plain, precision="float16")


def scaled(scale: float, **options: Any) -> Supervised:
    """A method with the loss scale of float16, which is only ever made on CUDA."""
    method = made(Supervised, Plain, **options)
    method.stepper._scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    return method


def test_a_loss_scale_changes_nothing_but_itself() -> None:
    plain, method = made(Supervised, Plain), scaled(1024.0, accumulate=2)
    for step in range(3):
        shown, expected = method.training_step(batch(step), step), plain.training_step(batch(step), step)
        assert shown["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    torch.testing.assert_close(gradients(method), gradients(plain), rtol=1e-2, atol=1e-4)
    state = method.state_dict()
    assert state["scaler"]["scale"] == 2048.0  # it grew after two good steps
    again = scaled(1.0)
    again.load_state_dict(state)
    assert again.state_dict()["scaler"] == state["scaler"]


def test_a_scaled_gradient_that_overflows_skips_the_step_and_lowers_the_scale() -> None:
    method = scaled(float(torch.finfo(torch.float32).max))
    before = [p.detach().clone() for p in method.network.parameters()]
    assert method.training_step(batch(0), 0)["loss"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, method.network.parameters(), strict=True))
    assert method.state_dict()["scaler"]["scale"] < torch.finfo(torch.float32).max


def test_a_gradient_that_is_not_finite_is_an_error_and_no_step() -> None:
    network = Plain()

    def objective(predict: Any, data: Any) -> Any:
        return {"root": (predict(data["hazy"]) * 0).abs().sqrt().mean()}, {}  # 0, with an infinite slope

    stepper = Stepper(network, objective, config=OptimizerConfig(), steps=1)
    before = [p.detach().clone() for p in network.parameters()]
    with pytest.raises(FloatingPointError, match=r"the gradient is nan at step 3; lower optimizer\.learning_rate"):
        stepper.step(batch(0), 3)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert stepper.teacher.updates == 0


def test_without_clipping_a_long_gradient_stays_as_it_is() -> None:
    long = {name: 1e3 * value for name, value in batch(0, count=2).items()}
    free, clipped = made(Supervised, Plain, clip_norm=None), made(Supervised, Plain, clip_norm=0.5)
    for method in (free, clipped):
        method.training_step(long, 0)
    assert gradients(clipped).norm() == pytest.approx(0.5, rel=1e-4)
    assert gradients(free).norm() > 5
    torch.testing.assert_close(gradients(free) / gradients(free).norm(), 2 * gradients(clipped), rtol=1e-3, atol=1e-6)


def test_a_step_says_its_rate_and_the_norm_of_its_gradient_before_clipping() -> None:
    short, free = made(Supervised, corun, warmup=4, clip_norm=1e-6), made(Supervised, corun, warmup=4, clip_norm=None)
    one, other = short.training_step(batch(0), 1), free.training_step(batch(0), 1)
    assert one["learning_rate"] == short.stepper.rate(1) == 5e-4
    assert one["gradient_norm"] == other["gradient_norm"] == pytest.approx(float(gradients(free).norm()))


def test_a_rate_may_be_constant() -> None:
    stepper = made(Supervised, Plain, final_share=1.0, warmup=2).stepper
    assert [stepper.rate(step) for step in (0, 1, 2, 9)] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])


def test_figures_are_shown_and_not_minimized() -> None:
    def objective(predict: Any, data: Any) -> Any:
        return {"l1": predict(data["hazy"]).abs().mean()}, {"figure": torch.tensor(7.0)}

    stepper = Stepper(Plain(), objective, config=OptimizerConfig(accumulate=2), steps=1)
    shown = stepper.step(batch(0), 0)
    assert shown["figure"] == pytest.approx(7.0)
    assert shown["loss"] == shown["l1"]


def test_a_network_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="Identity has no parameters to train"):
        Supervised(nn.Identity(), steps=1)


class Sharded(nn.Module):
    """Stands for a distributed wrapper: counts exchanges, skips them under ``no_sync``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.silent, self.log = module, False, []  # type: ignore[var-annotated]

    def forward(self, data: Any) -> Any:
        self.log.append("local" if self.silent else "exchange")
        return self.module(data)

    def no_sync(self) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def silence() -> Any:
            self.silent = True
            yield
            self.silent = False

        return silence()


def test_workers_exchange_gradients_with_the_last_micro_batch_only() -> None:
    wrapped: list[Sharded] = []

    def wrap(module: nn.Module) -> nn.Module:
        wrapped.append(Sharded(module))
        return wrapped[0]

    method = Supervised(Plain(), optimizer=OptimizerConfig(accumulate=3), steps=1, wrap=wrap)
    method.training_step(batch(0, count=3), 0)
    assert wrapped[0].log == ["local", "local", "exchange"]
