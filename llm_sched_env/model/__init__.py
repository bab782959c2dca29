"""The model: requests, arrivals, lengths, hardware, prices; plain data, validated once."""
