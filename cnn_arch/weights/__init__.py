"""Public weights of the papers' networks: read, converted, stored with what they expect to see."""
