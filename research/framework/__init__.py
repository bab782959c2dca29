"""What a study is, and how its cells are computed, kept and shown."""
