"""Speed of the compiled engine, compared with baselines in the same run."""
