"""Prompts: a versioned file with the chart and its facts put in.

The fixed text comes first, so that an engine's prefix cache holds it; then the chart; then what is known.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from vision_prompt.context import context_lines
from vision_prompt.errors import PromptError
from vision_prompt.facts import ChartFacts

TEMPLATE_NAMES = ("chart_v2", "chart_v1")
"""The first is the one to use."""
MAX_CONTEXT_CHARACTERS = 1600
_CHART, _CONTEXT = "{chart}", "{context}"
_NAME = re.compile(r"[a-z0-9_]{1,32}")


@dataclass(frozen=True, slots=True)
class Template:
    """A template as it lies in its file; one that was used is never edited, but gets a successor.

    Attributes:
        name: File name without the suffix.
        sha256: Of the file, 32 bytes.
        before_chart: Text before the picture, the same for every chart.
        after_chart: Text after the picture, with {context} where the facts go.
    """

    name: str
    sha256: bytes
    before_chart: str
    after_chart: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model gets.

    Attributes:
        template: What it was made from.
        before_chart: Text before the picture.
        after_chart: Text after the picture.
        left_out: Names of indicators that the prompt does not show: unknown words, or too many.
    """

    template: Template
    before_chart: str
    after_chart: str
    left_out: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole, with {chart} for the picture: what the journal keeps."""
        return f"{self.before_chart}{_CHART}{self.after_chart}"


def load_template(name: str = TEMPLATE_NAMES[0]) -> Template:
    """Read a template.

    Raises:
        PromptError: There is none of that name, or its file is damaged.
    """
    if name not in TEMPLATE_NAMES or not _NAME.fullmatch(name):
        raise PromptError("prompt_name", f"is {name[:40]!r}; there are {', '.join(TEMPLATE_NAMES)}")
    return parse_template(name, (files("vision_prompt") / f"{name}.txt").read_bytes())


def parse_template(name: str, content: bytes) -> Template:
    """Make a template from a file's bytes.

    Raises:
        PromptError: It is not text with {chart} once and {context} once after it.
    """
    try:
        text = content.decode("ascii").removesuffix("\n")
    except UnicodeDecodeError as e:
        raise PromptError(name, f"is no plain ASCII text: {e}") from e
    if text.count(_CHART) != 1 or text.count(_CONTEXT) != 1 or text.index(_CONTEXT) < text.index(_CHART):
        raise PromptError(name, f"needs {_CHART} once, and {_CONTEXT} once after it")
    before, after = text.split(_CHART)
    return Template(name, hashlib.sha256(content).digest(), before, after)


def build_prompt(facts: ChartFacts, template: Template | None = None) -> Prompt:
    """Return the prompt for a chart; the same facts give the same text.

    Args:
        facts: What is known.
        template: None: the first of TEMPLATE_NAMES.

    Raises:
        PromptError: A value can't be told to a model; the message names it.
    """
    template = load_template() if template is None else template
    lines, left_out = context_lines(facts)
    context = "\n".join(lines)
    if len(context) > MAX_CONTEXT_CHARACTERS:
        raise PromptError("context", f"has {len(context)} characters; at most {MAX_CONTEXT_CHARACTERS} fit")
    return Prompt(template, template.before_chart, template.after_chart.replace(_CONTEXT, context), left_out)
