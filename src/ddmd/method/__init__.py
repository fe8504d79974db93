"""The paper, and nothing else: tensors and callables, no networks by name, no files."""
