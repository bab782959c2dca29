"""The registry of policies, and how a policy runs."""
