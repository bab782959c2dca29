"""Load what users name by import path, and locate the exceptions that it raises."""
