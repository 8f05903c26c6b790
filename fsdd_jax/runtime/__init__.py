"""Files, devices, processes, logs, checkpoints: what a run stands on."""
