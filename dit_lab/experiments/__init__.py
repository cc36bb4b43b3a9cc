"""The experiments that are told in docs/results: models trained and judged alike, and what came out of them."""
