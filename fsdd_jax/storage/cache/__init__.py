"""The data set D of distilled subsets on disk (Alg. 1)."""
