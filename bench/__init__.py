"""Benchmarks; bench/README.md says how to run them. No part of the installed package."""
