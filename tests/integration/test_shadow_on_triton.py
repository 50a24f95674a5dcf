"""A version is tried beside the shipped one on a real Triton while an engine decides, and unloaded in mid-run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fakes.engine_world import World
from fakes.waiting import until
from journal.rows import DecisionRow, ShadowAnswerRow
from served_models import ROOT, triton_on
from strategy import config
from strategy.adapters.shadow_forecaster import GrpcShadowForecaster
from strategy.composition import forecaster_spec
from tradeserve_client.answers import Answer
from tradeserve_client.model_control import ModelControl
from tradeserve_client.triton import TritonClient

pytestmark = pytest.mark.xdist_group("served models")
S = 1_000_000_000


def answers(world: World) -> list[ShadowAnswerRow]:
    return [row for row in world.journal.rows if isinstance(row, ShadowAnswerRow)]


async def test_a_real_version_is_picked_up_asked_the_decisions_window_and_dropped_when_it_is_unloaded(
    tmp_path: Path,
) -> None:
    repository = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", repository)
    with triton_on(repository, tmp_path) as address:
        client = TritonClient(address)
        control = ModelControl(client, repository)
        said: list[str] = []
        settings = config.load(None, {"services.triton.target": address, "strategy.bar_size_s": 300})
        spec = replace(forecaster_spec(settings), look_again_s=0.1)
        shadow = GrpcShadowForecaster(spec, deadline_ns=20 * S, max_in_flight=4, on_change=said.append)
        shadow.open()
        world = World(tmp_path, shadow=shadow)
        await world.start()
        try:
            await world.bar()
            await control.deploy("lstm_cnn", repository / "lstm_cnn" / "1" / "model.onnx")
            assert shadow.versions == [], "who is only deployed is not tried"
            await control.shadow("lstm_cnn", 2)
            await until(lambda: bool(shadow.versions), timeout_s=30)
            await world.bar()
            await until(lambda: bool(answers(world)), timeout_s=30)
            (row,) = answers(world)
            decided = [row for row in world.journal.rows if isinstance(row, DecisionRow)]
            assert (row.decision_id, row.outcome, row.model_version) == (decided[1].decision_id, "in time", 2)
            window = np.frombuffer(decided[1].window, "<f4").reshape(1, 60, 5)
            own = await client.infer("lstm_cnn", {"window": window}, budget=20.0, version=1)
            assert isinstance(own, Answer)
            assert row.output["probabilities"] == pytest.approx(
                own.value.outputs["probabilities"][0].tolist()
            )
            await control.retire("lstm_cnn", 2)
            await world.bar()  # whatever the shadow knows of it by now
            await until(lambda: not shadow.versions, timeout_s=30)
            await world.bar()
            assert world.engine.ledger.decisions.total() == 4
            assert said[-1] == "lstm_cnn v2 is not tried any more"
        finally:
            await world.stop()
            await shadow.close()
            await client.close()
