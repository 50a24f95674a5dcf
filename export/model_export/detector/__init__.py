"""The chart pattern detector: from a chart's pixels to boxes, in one stage, trained on generated charts."""
