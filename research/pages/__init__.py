"""Put results into the documentation."""
