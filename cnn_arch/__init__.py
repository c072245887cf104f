"""The classic ImageNet networks in JAX, exactly as published."""
