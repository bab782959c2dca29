"""KV blocks that GPUs keep for reuse."""
