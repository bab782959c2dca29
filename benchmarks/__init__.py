"""Speed of the compiled engine beside plain yardsticks."""
