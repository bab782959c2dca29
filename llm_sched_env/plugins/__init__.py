"""Load what users name by import path, locate what it raises, and accept former names."""
