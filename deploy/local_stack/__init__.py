"""Starts every process of tradeserve on one machine, watches them, and leaves nothing behind."""
