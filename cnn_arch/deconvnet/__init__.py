"""Seeing inside a network, after Zeiler & Fergus 2014: what excites each of its feature maps."""
