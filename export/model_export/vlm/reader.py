"""The whole reader: tower, language model, and what happens between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the name that every torch program uses)
from torch import Tensor, nn

from model_export.vlm.dialogue import END, IGNORED, Batch, Dialogue
from model_export.vlm.language_model import LanguageModel
from model_export.vlm.shape import TextShape, VisionShape
from model_export.vlm.vision_tower import Merger, VisionTower


class Reader(nn.Module):
    """A Qwen3-VL for one size of picture; the names of its parameters are Hugging Face's."""

    def __init__(self, vision: VisionShape, text: TextShape) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.visual = VisionTower(vision, text.hidden_size)
        self.model.language_model = LanguageModel(text)
        self._silence_deeper_mergers()

    def take(self, tower: VisionTower, language: LanguageModel) -> None:
        """Take the weights of two halves that were taught apart; the deeper mergers begin by adding nothing."""
        self.tower.load_state_dict(tower.state_dict())
        self.language.load_state_dict(language.state_dict())
        self._silence_deeper_mergers()

    def speak_with(self, language: LanguageModel) -> None:
        """Exchange the words' side."""
        self.model.language_model = language

    def _silence_deeper_mergers(self) -> None:
        for merger in self.tower.deepstack_merger_list:
            assert isinstance(merger, Merger)
            nn.init.zeros_(merger.linear_fc2.weight)
            nn.init.zeros_(merger.linear_fc2.bias)

    @property
    def tower(self) -> VisionTower:
        """The picture's side."""
        tower = self.model.visual
        assert isinstance(tower, VisionTower)
        return tower

    @property
    def language(self) -> LanguageModel:
        """The words' side."""
        language = self.model.language_model
        assert isinstance(language, LanguageModel)
        return language


def hidden_of(
    language: LanguageModel, dialogue: Dialogue, picture: Tensor, deep: Sequence[Tensor], tokens: Tensor
) -> Tensor:
    """Return (batch, tokens, hidden) for the tokens after the picture.

    Args:
        language: The words' side.
        dialogue: The layout.
        picture: (batch, image tokens, hidden).
        deep: What is added to the picture's tokens after the first layers.
        tokens: (batch, tokens) ids.
    """
    places = dialogue.places(tokens.shape[1])
    opening = language.embed_tokens(torch.tensor([dialogue.opening]))
    _, memories = language(opening, places[0])
    count = picture.shape[1]
    x = torch.cat((picture, language.embed_tokens(tokens)), 1)
    hidden, _ = language(x, places[1], deep, count, memories)
    after: Tensor = hidden[:, count:]
    return after


def loss_and_hits(language: LanguageModel, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the weighted loss, and (batch, tokens) whether each wanted token was the likeliest; True elsewhere."""
    kept = batch.wanted != IGNORED
    logits, wanted, weight = language.words(hidden[kept]), batch.wanted[kept], batch.weight[kept]
    loss = (F.cross_entropy(logits, wanted, reduction="none") * weight).sum() / weight.sum()
    hits = torch.ones_like(batch.wanted, dtype=torch.bool)
    hits[kept] = logits.argmax(-1) == wanted
    return loss, hits


@torch.no_grad()
def answer(
    reader: Reader, dialogue: Dialogue, pixels: Tensor, contexts: Sequence[str], most: int
) -> list[str]:
    """Answer, always with the likeliest token.

    Args:
        reader: In evaluation mode.
        dialogue: The layout.
        pixels: (batch, side, side, 3) uint8.
        contexts: What stands below the pictures; all of the same number of tokens.
        most: Tokens of an answer.
    """
    language = reader.language
    question = torch.tensor([dialogue.question(context) for context in contexts])
    places = dialogue.places(question.shape[1] + most)
    _, memories = language(language.embed_tokens(torch.tensor([dialogue.opening])), places[0])
    picture, deep = reader.tower(pixels)
    count = picture.shape[1]
    x = torch.cat((picture, language.embed_tokens(question)), 1)
    known = x.shape[1]
    hidden, memories = language(x, places[1][:, :known], deep, count, memories)
    rows: list[Tensor] = []
    done = torch.zeros(len(contexts), dtype=torch.bool)
    for step in range(most):
        token = language.words(hidden[:, -1]).argmax(-1)
        done |= token == END
        if bool(done.all()):
            break
        rows.append(torch.where(done, END, token))
        at = known + step
        hidden, memories = language(
            language.embed_tokens(token[:, None]), places[1][:, at : at + 1], before=memories
        )
    ids = torch.stack(rows, 1).tolist() if rows else [[] for _ in contexts]
    return [dialogue.vocabulary.decode(one) for one in ids]
