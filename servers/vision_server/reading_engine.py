"""What reads a chart behind the servicer: the port that both backends fill.

EngineError
├── EngineAwayError     it died, is unreachable, or serves another model
├── EngineFullError     it takes no more at the moment
└── EngineFailedError   it is there, and refused or broke on this request
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vision_server.png import Picture


class EngineError(Exception):
    """Base of what an engine raises."""


class EngineAwayError(EngineError):
    """The engine is not there."""


class EngineFullError(EngineError):
    """The engine takes no more."""


class EngineFailedError(EngineError):
    """The engine could not do this request."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is chosen.

    Attributes:
        max_tokens: Most tokens of an answer.
        temperature: 0 takes the likeliest token.
        seed: Of the choice.
    """

    max_tokens: int = 640
    temperature: float = 0.0
    seed: int = 1

    def as_json(self) -> dict[str, float | int]:
        """Return what the journal keeps."""
        return {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class ReadingJob:
    """One chart to read.

    Attributes:
        request_id: The caller's.
        before_chart: Text before the picture.
        after_chart: Text after it.
        picture: The chart.
        schema: JSON schema that guides the answer.
        sampling: How it is chosen.
    """

    request_id: str
    before_chart: str
    after_chart: str
    picture: Picture
    schema: Mapping[str, Any]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model answered.

    Attributes:
        text: As it came.
        prompt_tokens: Of the prompt, the picture's included.
        output_tokens: Of the answer.
        complete: False when the answer was cut off at its most tokens.
        first_token_ns: From the start of the work to the first token; None when the engine does not tell.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    complete: bool
    first_token_ns: int | None = None


class ReadingEngine(Protocol):
    """A model that reads charts. Used from one event loop."""

    async def start(self) -> None:
        """Be ready to generate; after `stop`, again.

        Raises:
            EngineError: It does not start; the message says what to do.
        """

    async def generate(self, job: ReadingJob) -> Generated:
        """Read one chart; cancelled, the model stops working on it.

        Raises:
            EngineError: There is no answer.
        """

    async def wait_away(self) -> str:
        """Return when the engine is not there any more, with the reason in a few words."""

    async def stop(self) -> None:
        """End what `start` began. Can be called twice."""
