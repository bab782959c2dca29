"""What is scheduled: requests, arrivals, lengths, hardware, prices; plain data, validated once."""
