"""What the runners of all benchmarks share: the machine in words, turns, spreads, pages."""
