"""The paper's statements, computed: studies whose numbers stand beside its claims."""
