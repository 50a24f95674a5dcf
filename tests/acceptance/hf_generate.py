"""Have transformers answer what vLLM answered: runs in vLLM's environment, which has both.

Reads one JSON document per line from the file it is given: before, after, png (base64), schema, max_tokens. Prints one
answer per line, as JSON. The grammar is the one that vLLM uses, so every token but the choice is the same.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

_AT_ONCE = 16


def main() -> int:
    """Answer every line of a file with the model in a folder."""
    folder, jobs_file = sys.argv[1:3]
    import torch
    import xgrammar
    from PIL import Image
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
    from xgrammar.contrib.hf import LogitsProcessor

    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    card = json.loads((Path(folder) / "card.json").read_text())
    dtype = getattr(torch, card["serving"]["engine"]["dtype"])
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    vocabulary = model.config.text_config.vocab_size
    information = xgrammar.TokenizerInfo.from_huggingface(processor.tokenizer, vocab_size=vocabulary)
    compiler = xgrammar.GrammarCompiler(information)
    jobs: list[dict[str, Any]] = [json.loads(line) for line in Path(jobs_file).read_text().splitlines()]
    for first in range(0, len(jobs), _AT_ONCE):
        part = jobs[first : first + _AT_ONCE]
        schema = json.dumps(part[0]["schema"])
        # As vLLM does for disable_any_whitespace.
        grammar = compiler.compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))
        texts = [_chat(processor, job) for job in part]
        images = [Image.open(io.BytesIO(base64.b64decode(job["png"]))).convert("RGB") for job in part]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
        with torch.no_grad():
            tokens = model.generate(
                **inputs,
                max_new_tokens=part[0]["max_tokens"],
                do_sample=False,
                logits_processor=[LogitsProcessor(grammar)],
            )
        answers = processor.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        for answer in answers:
            print(json.dumps(answer), flush=True)
    return 0


def _chat(processor: Any, job: dict[str, Any]) -> str:
    content = [
        {"type": "text", "text": job["before"]},
        {"type": "image"},
        {"type": "text", "text": job["after"]},
    ]
    messages = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


if __name__ == "__main__":
    sys.exit(main())
