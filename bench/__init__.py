"""The benchmarks from which the README's figures come; ``python -m bench`` runs them all."""
