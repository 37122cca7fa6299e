"""The common base of the networks: features, and an optional classifier."""

from __future__ import annotations

from torch import Tensor, nn


class FeatureNetwork(nn.Module):
    """Base of the backbones. fc: the classifier, or None.  A subclass sets `fc` and defines `features`."""

    fc: nn.Linear | None

    def last_map(self, x: Tensor) -> Tensor | None:
        """Map float (B, 3, T, H, W), normalised, to the last map (B, D, T, h, w), whose mean over time and space are
        the features; None for a network that does not end this way.
        """
        return None

    def features(self, x: Tensor) -> Tensor:
        """Map float (B, 3, T, H, W), normalised by the backbone's recipe, to features (B, D)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits (B, num_classes), or features (B, D) without a classifier."""
        features = self.features(x)
        if self.fc is None:
            return features
        logits: Tensor = self.fc(features)
        return logits
