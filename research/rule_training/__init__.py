"""Training of the rule `learned` and of its relatives for one instance."""
