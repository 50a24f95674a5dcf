"""The small chart reader: a Qwen3-VL of a few million parameters, trained from scratch. Needs torch.

`python -m model_export vlm` makes it; docs/train_the_reader.md tells how.
"""
