"""The strategy client: market data in, forecasts under a budget, decisions, paper orders, journal out."""
