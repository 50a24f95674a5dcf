"""Read charts with a vision-language model: tradeserve.vision.v1 in front of vLLM.

`requests` and `png` let in what can be read, `chart_queue` decides who is read and when, `reading_engine` is the
port behind which `vllm_engine` (vLLM in this process) and `openai_engine` (a vLLM of its own, over HTTP) do it,
`keeper` notices that an engine is away and brings it back, `checks` holds an answer against the chart's own data,
and `servicer` speaks the protocol. The prompt and the answer's schema are `vision_prompt`'s.
"""
