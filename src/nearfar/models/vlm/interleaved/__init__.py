"""A causal language model whose upper layers attend to pictures that stand anywhere in a text (COSMO, arXiv
2401.00849; Flamingo, arXiv 2204.14198)."""
