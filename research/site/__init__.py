"""The documentation site: pages made of docstrings and files that lie outside docs/."""
