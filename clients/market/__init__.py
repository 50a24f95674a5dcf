"""Facts about a market and pure functions on them: events, bars, order book, windows, indicators.

No I/O and no clock in here; training and serving share this package.
"""
