"""The prompt of a chart reader and the answer it may give; shared by serving and training.

Pure: no I/O but reading the template that lies beside the code.
"""

from vision_prompt.answer import ChartAnswer, Pattern, Signal, answer_schema, parse_answer
from vision_prompt.context import scale_of
from vision_prompt.errors import AnswerError, PromptError, VisionPromptError
from vision_prompt.facts import ChartExtent, ChartFacts, PastOutcome
from vision_prompt.prompt import TEMPLATE_NAMES, Prompt, Template, build_prompt, load_template

__all__ = [
    "TEMPLATE_NAMES",
    "AnswerError",
    "ChartAnswer",
    "ChartExtent",
    "ChartFacts",
    "PastOutcome",
    "Pattern",
    "Prompt",
    "PromptError",
    "Signal",
    "Template",
    "VisionPromptError",
    "answer_schema",
    "build_prompt",
    "load_template",
    "parse_answer",
    "scale_of",
]
