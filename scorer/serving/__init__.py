"""The scorer: requests in, scores and stamps out. Never imports torch."""
