"""How good a distilled set is."""
