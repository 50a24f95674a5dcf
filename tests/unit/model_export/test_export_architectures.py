from __future__ import annotations

from typing import Any

import numpy as np
import pytest

WITHOUT_TORCH = "torch is not installed: `make test EXTRAS=cpu,dev,export` brings it"
torch: Any = pytest.importorskip("torch", reason=WITHOUT_TORCH)

from model_export.architectures import (  # noqa: E402
    SHAPE_POINTS,
    build,
    gramian_fields,
    shape_target,
    window_features,
)
from model_export.contract import MODELS, SIGMA_FLOOR  # noqa: E402
from model_export.windows import nasty_windows, window_sigma  # noqa: E402


@pytest.fixture
def windows() -> Any:
    return torch.from_numpy(nasty_windows())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_probabilities_sum_to_one_and_embeddings_have_length_one(name: str, windows: Any) -> None:
    torch.manual_seed(1)
    out = build(name).eval()(windows)
    outputs = out if isinstance(out, tuple) else (out,)
    assert [tuple(o.shape[1:]) for o in outputs] == [t.dims for t in MODELS[name].outputs]
    assert all(torch.isfinite(o).all() for o in outputs)
    assert torch.allclose(outputs[0].sum(1), torch.ones(len(windows)), atol=1e-6)
    if len(outputs) > 1:
        assert torch.allclose(outputs[1].norm(dim=1), torch.ones(len(windows)), atol=1e-4)


def test_gradients_are_finite_for_nasty_windows(windows: Any) -> None:
    for name in MODELS:
        torch.manual_seed(1)
        model = build(name).train()
        out = model(windows)
        loss = sum(o.square().sum() for o in (out if isinstance(out, tuple) else (out,)))
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in gradients)


def test_features_do_not_depend_on_the_price_level(windows: Any) -> None:
    scaled = windows[:1].clone()
    scaled[:, :, :4] *= 64
    one, other = window_features(windows[:1])[0], window_features(scaled)[0]
    assert torch.allclose(one, other, atol=1e-3)


def test_sigma_in_the_graph_is_the_sigma_of_the_targets(windows: Any) -> None:
    sigma = window_features(windows)[1][:, 0].numpy()
    priced = nasty_windows()[:, :, 3].min(1) > 0
    expected = window_sigma(nasty_windows()[priced][:, :, 3].astype(np.float64))
    assert sigma[priced] == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert sigma[~priced] == pytest.approx(SIGMA_FLOOR)


def test_gramian_fields_equal_those_of_pyts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling what pyts imports takes a minute; interpreting it here takes a second.
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    image = pytest.importorskip("pyts.image", reason="pyts is not installed: it comes with the export extra")
    rng = np.random.default_rng(2)
    walks = np.cumsum(rng.normal(0, 0.01, (30, 60)), axis=1)
    rounded = np.round(walks, 2)
    series = np.concatenate([walks, rounded, walks * 1e-4]).astype(np.float32)
    ours = gramian_fields(torch.from_numpy(series).unsqueeze(1)).numpy()
    for channel, method in enumerate(("summation", "difference")):
        reference = image.GramianAngularField(sample_range=(0, 1), method=method).fit_transform(
            series.astype(np.float64)
        )
        assert np.abs(ours[:, channel] - reference).max() <= 1e-5


def test_a_series_and_its_negation_are_different_images() -> None:
    series = torch.linspace(0, 1, 60).square().reshape(1, 1, 60)
    assert (gramian_fields(series) - gramian_fields(-series)).abs().max() > 0.5


def test_rounding_noise_is_not_drawn() -> None:
    noise = 1 + 1e-6 * torch.rand(1, 1, 60, generator=torch.Generator().manual_seed(3))
    flat = gramian_fields(torch.ones(1, 1, 60), 0.05)
    assert torch.allclose(gramian_fields(noise, 0.05), flat, atol=1e-3)


def test_the_shape_to_give_back_is_the_centred_path(windows: Any) -> None:
    target = shape_target(windows)
    assert target.shape == (len(windows), SHAPE_POINTS + 1)
    assert torch.allclose(target[:, :-1].mean(1), torch.zeros(len(windows)), atol=1e-5)
