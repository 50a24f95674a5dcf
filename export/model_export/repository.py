"""The model repository, exactly what Triton loads: graphs, configs, and the cards that configs follow from."""

from __future__ import annotations

from model_export import cards, triton_config
from model_export.contract import DETECTOR, SERVED, Layout
from model_export.detector.card import DetectorCard


def publish(graph: bytes, card: cards.ModelCard | DetectorCard, layout: Layout) -> None:
    """Write graph, configs and card of a model, one right after the other."""
    path = layout.onnx(card.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph)
    triton_config.write_configs(SERVED[card.name], card.parameters(), layout.model_dir(card.name))
    cards.write_card(layout.card(card.name), card)


def read_card(name: str, layout: Layout) -> cards.ModelCard | DetectorCard:
    """Read the card of a model.

    Raises:
        ArtifactError: There is none, or it is malformed.
    """
    kind = DetectorCard if name == DETECTOR.name else cards.ModelCard
    card: cards.ModelCard | DetectorCard = cards.read_card(layout.card(name), kind)
    return card


def write_configs(name: str, layout: Layout) -> str:
    """Write both Triton configs of one model from its card, leaving graph and card as they are."""
    values = read_card(name, layout).parameters()
    triton_config.write_configs(SERVED[name], values, layout.model_dir(name))
    return f"{name}: wrote {' and '.join(triton_config.CONFIG_FILES)}"
