"""The client SDK: typed calls to Triton and tradeserve's own services under a latency budget."""
