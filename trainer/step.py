"""One optimisation step, compiled where the backend can: the only file that knows how each backend differentiates.

TensorFlow traces the step into a graph once; PyTorch runs it eagerly. Keras' own `fit` is not used because a step here
draws its own bags and because its bookkeeping costs more than these small networks do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensor = Any
LossFunction = Callable[..., Tensor]


def value_and_gradients(
    loss: LossFunction, inputs: Sequence[NDArray[Any]], dtype: str = "float64"
) -> tuple[float, list[NDArray[Any]]]:
    """Value of `loss(*inputs)` and its gradient to each input, as NumPy; used to hold the losses to their spec."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(x, dtype=dtype) for x in inputs]
        with tf.GradientTape() as tape:
            for t in tensors:
                tape.watch(t)
            value = loss(*tensors)
        grads = tape.gradient(value, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return float(value), [tf.convert_to_tensor(g).numpy() for g in grads]
    import torch

    leaves = [torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=True) for x in inputs]
    result = loss(*leaves)
    found = torch.autograd.grad(result, leaves, allow_unused=True)
    zero_filled = [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
    return float(result.detach()), [g.numpy() for g in zero_filled]


def make_step(model: Any, optimizer: Any, objective: Callable[[Tensor], Tensor]) -> Callable[[Any], float]:
    """A function `step(features) -> loss` that draws the gradient of `objective(model(features))` and applies it.

    features: float32 (B, T, D), the same shape at every call.  The loss returned is that before the step.
    """
    import keras

    variables = model.trainable_variables
    optimizer.build(variables)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator, unused-ignore]
        def traced(features: Tensor) -> Tensor:
            with tf.GradientTape() as tape:
                value = objective(model(features, training=True))
            optimizer.apply(tape.gradient(value, variables), variables)
            return value

        return lambda features: float(traced(tf.convert_to_tensor(features)))
    import torch

    parameters = [v.value for v in variables]

    def eager(features: Any) -> float:
        value = objective(model(torch.as_tensor(features), training=True))
        gradients = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            optimizer.apply(list(gradients), variables)
        return float(value.detach())

    return eager


def predict(model: Any, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """`model(features)` without dropout, as NumPy. features: (B, T, D)."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            out: NDArray[np.float32] = model(torch.as_tensor(features), training=False).numpy()
            return out
    traced: NDArray[np.float32] = model(features, training=False).numpy()
    return traced
