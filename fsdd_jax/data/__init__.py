"""Data sets: where images come from, and how steps draw from them."""
