"""A GPU as a virtual clock."""
