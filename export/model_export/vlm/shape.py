"""How large the reader is. The names of the fields are those of Hugging Face's configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class VisionShape:
    """The picture's side of the network; `image_px` by `image_px` pixels in square patches."""

    image_px: int = 192
    patch_size: int = 24
    hidden_size: int = 128
    intermediate_size: int = 512
    depth: int = 4
    num_heads: int = 4
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    deepstack_visual_indexes: tuple[int, ...] = (1, 2)

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_px // self.patch_size

    @property
    def merged_grid(self) -> int:
        """Image tokens per side."""
        return self.grid // self.spatial_merge_size

    @property
    def tokens(self) -> int:
        """Image tokens in a prompt."""
        return self.merged_grid**2


@dataclass(frozen=True, slots=True)
class TextShape:
    """The words' side of the network."""

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 320
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    mrope_section: tuple[int, int, int] = (6, 5, 5)
    rms_norm_eps: float = 1e-6


def config_of(vision: VisionShape, text: TextShape, ids: dict[str, int]) -> dict[str, Any]:
    """Return the config.json of a Qwen3-VL of this shape.

    Args:
        vision: The picture's side.
        text: The words' side.
        ids: Token ids by name: pad, eos, image, video, vision_start, vision_end.
    """
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "image_token_id": ids["image"],
        "video_token_id": ids["video"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "text_config": {
            "model_type": "qwen3_vl_text",
            "dtype": "bfloat16",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": None,
            "eos_token_id": ids["eos"],
            "pad_token_id": ids["pad"],
            "head_dim": text.head_dim,
            "hidden_act": "silu",
            "hidden_size": text.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": text.max_position_embeddings,
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": list(text.mrope_section),
                "rope_theta": text.rope_theta,
                "rope_type": "default",
            },
            "tie_word_embeddings": True,
            "use_cache": True,
            "vocab_size": text.vocab_size,
        },
        "vision_config": {
            "model_type": "qwen3_vl_vision",
            "dtype": "bfloat16",
            "deepstack_visual_indexes": list(vision.deepstack_visual_indexes),
            "depth": vision.depth,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision.hidden_size,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": vision.intermediate_size,
            "num_heads": vision.num_heads,
            "num_position_embeddings": vision.grid**2,
            "out_hidden_size": text.hidden_size,
            "patch_size": vision.patch_size,
            "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "axial"},
            "spatial_merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        },
    }


def processor_config_of(vision: VisionShape) -> dict[str, Any]:
    """Return the processor_config.json: every picture is resized to the shape's number of pixels."""
    pixels = vision.image_px**2
    image = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": vision.spatial_merge_size,
        "patch_size": vision.patch_size,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": pixels, "shortest_edge": pixels},
        "temporal_patch_size": vision.temporal_patch_size,
    }
    video = {
        "do_sample_frames": True,
        "fps": 2,
        "max_frames": 768,
        "max_video_tokens": 768,
        "min_frames": 4,
        "return_metadata": False,
        "video_processor_type": "Qwen3VLVideoProcessor",
    }
    return {
        "processor_class": "Qwen3VLProcessor",
        "image_processor": {**image, "image_processor_type": "Qwen2VLImageProcessor"},
        "video_processor": {**image, **video},
    }
