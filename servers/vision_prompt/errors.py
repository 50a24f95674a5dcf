"""What can go wrong with a prompt or an answer.

VisionPromptError
    PromptError: a value can't be told to a model
    AnswerError: a model's answer is not what the schema asks for
"""

from __future__ import annotations


class VisionPromptError(ValueError):
    """Base of this package's errors."""


class PromptError(VisionPromptError):
    """A value can't be told to a model.

    Attributes:
        field: Which one.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field} {detail}")
        self.field = field


class AnswerError(VisionPromptError):
    """An answer is not what the schema asks for.

    Attributes:
        field: Of the answer; "" for the whole.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field or 'the answer'} {detail}")
        self.field = field
