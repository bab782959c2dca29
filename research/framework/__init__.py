"""What a study is, and how its cells are computed, cached and shown."""
