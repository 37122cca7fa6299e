"""Models: recipes, backbones, heads, bundles.

In: a bundle's folder, weights.
Out: networks as plain PyTorch modules, recipes, thresholds.
Imports: config, types, system, errors.
"""
