"""How the engine is compiled and spread over threads."""
