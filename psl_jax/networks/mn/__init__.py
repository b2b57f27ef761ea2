"""EfficientAT's mn: front end, network, folding, published names."""
