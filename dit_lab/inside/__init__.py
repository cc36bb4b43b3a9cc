"""Looking in: one forward watched, a sampling run recorded and replayed, and what is computed from them."""
