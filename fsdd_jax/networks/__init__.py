"""Feature extractors, the translator, and how their weights are drawn."""
