"""Opens the reader of charts of a run, and says in words what it may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from strategy.adapters.chart_reader import GrpcChartReader
from strategy.calibration_file import read_calibration
from strategy.config import StrategyConfig
from strategy.core.calibration import Calibration
from strategy.core.plain import to_json
from strategy.vision import VisionPlan
from tradeserve_client.channel import TlsFiles, Transport
from tradeserve_client.errors import CallError

_LOOK_S = 1.0


async def open_vision(
    config: StrategyConfig, tls: TlsFiles | None, stack: AsyncExitStack, say: Callable[[str], None]
) -> VisionPlan | None:
    """Connect to the vision server where one is configured; it may be away, and come later.

    Args:
        config: Of the run.
        tls: Files for an encrypted connection; None for plain text.
        stack: Closes the connection.
        say: Told in words.

    Raises:
        StartError: The calibration can't be used.
        TradeserveError: The target or a TLS file is unusable.
    """
    settings, target = config.vision, config.services.vision.target
    if not target or not settings.max_in_flight:
        say("vision: off")
        return None
    calibration = None
    if settings.calibration_file:
        calibration = read_calibration(Path(settings.calibration_file), settings.calibration_sha256)
    reader = GrpcChartReader(
        target,
        deadline_s=settings.deadline_ms / 1e3,
        max_in_flight=settings.max_in_flight,
        tls=tls,
        transport=Transport(config.services.transport),
    )
    stack.push_async_callback(reader.close)
    say(
        f"vision: {target}, asked after each decision; may veto or shrink entries of the next "
        f"{settings.lifetime_bars} bars, nothing else"
    )
    say(f"      {_calibrated(calibration, settings.min_calibration_count)}")
    try:
        info = await reader.reader(_LOOK_S)
        say(
            f"      {info.model.name} v{info.model.version} {info.model.artifact_sha256[:12]}: {info.statement}"
        )
    except CallError as error:
        say(f"      does not answer now ({error.reason}); trading goes on without it")
    return VisionPlan(reader, settings.limits, calibration, settings.max_in_flight)


def recorded_plan(plan: VisionPlan | None) -> Mapping[str, Any]:
    """Return what a replay needs to find again what readings did, for the run's row."""
    if plan is None:
        return {}
    return {"vision_limits": to_json(plan.limits), "vision_calibration": to_json(plan.calibration)}


def _calibrated(calibration: Calibration | None, min_count: int) -> str:
    if calibration is None:
        return "its confidences are not calibrated: they count as stated"
    if calibration.count < min_count:
        return f"its calibration has {calibration.count} of {min_count} outcomes: confidences count as stated"
    return f"confidences of model {calibration.model_sha256[:12]} calibrated on {calibration.count} outcomes"
