"""The paper's algorithms, and the settings of each."""
