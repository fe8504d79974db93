"""Scripts that run in scorers' own environments. They must not import ddmd: only `protocol` beside them, and their scorer's packages."""
