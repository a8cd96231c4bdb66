"""Which network to take: from records, under limits, in words."""
