"""The paper's laboratory: its ablations and probes as plans of runs, on any recipe."""
